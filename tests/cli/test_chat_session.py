"""The dialogue's state: what is sent, what is kept, what is written to disk."""

import json
from pathlib import Path

import pytest

from samovar.cli.chat_session import ChatSession, read_messages
from samovar.errors import BadRequest, FormatError, SamovarError, StoreError
from samovar.text.output_parser import Delta
from tests.cli.fakes import FakeLLM, said


def ask(session: ChatSession, text: str, *, stop_after: int | None = None) -> list[Delta]:
    shown: list[Delta] = []
    session.ask(text, shown.append, lambda: len(shown) == stop_after)
    return shown


def test_question_and_answer_become_the_history_of_the_next_turn() -> None:
    llm = FakeLLM(said("Pa", "ris."))
    session = ChatSession(llm=llm, sampling={"temperature": 0.0}, system="Be brief.")
    assert ask(session, "Capital?") == said("Pa", "ris.")
    ask(session, "And Spain?")
    assert llm.asked[1] == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Capital?"},
            {"role": "assistant", "content": "Paris."},
            {"role": "user", "content": "And Spain?"},
        ],
        "thinking": None,
        "thinking_budget": None,
        "temperature": 0.0,
    }


def test_thoughts_are_kept_apart_from_the_answer() -> None:
    session = ChatSession(llm=FakeLLM(said("~hm", "Paris.")), sampling={}, is_thinking=True)
    ask(session, "Capital?")
    assert session.messages[1] == {"role": "assistant", "content": "Paris.", "reasoning_content": "hm"}


def test_a_stopped_answer_is_kept_as_far_as_it_came() -> None:
    session = ChatSession(llm=FakeLLM(said("one ", "two ", "three")), sampling={})
    assert ask(session, "Count.", stop_after=2) == said("one ", "two ")
    assert session.messages[-1] == {"role": "assistant", "content": "one two "}


def test_an_answer_stopped_in_its_thoughts_is_dropped_with_its_question() -> None:
    session = ChatSession(llm=FakeLLM(said("~hm", "answer")), sampling={})
    ask(session, "Count.", stop_after=1)
    assert session.messages == []


def test_a_keyboard_interrupt_counts_as_stopping() -> None:
    def interrupt(_delta: Delta) -> None:
        raise KeyboardInterrupt

    session = ChatSession(llm=FakeLLM(said("one ", "two")), sampling={})
    result = session.ask("Count.", interrupt, lambda: False)
    assert result.finish_reason == "cancelled"
    assert session.messages[-1]["content"] == "one "


def test_a_refused_question_leaves_the_dialogue_as_it_was() -> None:
    class Refusing(FakeLLM):
        def stream_chat(self, messages: object, **options: object) -> object:
            raise BadRequest("too long")

    session = ChatSession(llm=Refusing([]), sampling={}, messages=[{"role": "user", "content": "before"}])
    with pytest.raises(BadRequest):
        ask(session, "long")
    assert session.messages == [{"role": "user", "content": "before"}]


def test_a_saved_dialogue_is_read_back_unchanged(tmp_path: Path) -> None:
    session = ChatSession(llm=FakeLLM(said("~hm", "Čaj 🫖")), sampling={}, system="Be brief.")
    ask(session, "Tea?")
    assert session.save(tmp_path / "chat.json") == 3
    other = ChatSession(llm=FakeLLM([]), sampling={}, system="another")
    assert other.load(tmp_path / "chat.json") == 3
    assert other.request() == session.request()
    assert other.system == "Be brief."


def test_saving_again_replaces_the_dialogues_own_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    session = ChatSession(llm=FakeLLM(said("a")), sampling={})
    with pytest.raises(StoreError, match="exists already"):
        session.save(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    session.save(tmp_path / "chat.json")
    ask(session, "more")
    session.save(tmp_path / "chat.json")
    assert len(json.loads((tmp_path / "chat.json").read_text())) == 2


def test_saving_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    session = ChatSession(llm=FakeLLM([]), sampling={})
    with pytest.raises(StoreError, match="cannot be written"):
        session.save(tmp_path / "no" / "such" / "folder.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("\xff", "is no JSON"),
        ('{"role": "user"}', "holds dict; expected a list"),
        ('["hello"]', "message 0 has no text content"),
        ('[{"role": "user", "content": 3}]', "message 0 has no text content"),
        ('[{"role": "robot", "content": "x"}]', "role 'robot'"),
        ('[{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]', "only at the start"),
        ('[{"role": "user", "content": "x", "name": "n"}]', "keys that are not read: .'name'."),
    ],
)
def test_an_unsound_file_is_refused_and_changes_nothing(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "chat.json"
    path.write_bytes(content.encode("latin-1"))
    session = ChatSession(llm=FakeLLM([]), sampling={}, messages=[{"role": "user", "content": "before"}])
    with pytest.raises(SamovarError, match=message):
        session.load(path)
    assert session.messages == [{"role": "user", "content": "before"}]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"chat\.json cannot be read: No such file"):
        read_messages(tmp_path / "chat.json")


def test_an_endless_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(FormatError, match="larger than 64 MiB"):
        read_messages(path)
