"""Slash commands."""

from pathlib import Path

import pytest

from samovar.cli.chat_commands import HELP, is_open, message_text, run_command
from samovar.cli.chat_session import ChatSession
from tests.cli.fakes import FakeLLM, said


@pytest.fixture
def session() -> ChatSession:
    return ChatSession(llm=FakeLLM(said("yes")), sampling={})


@pytest.mark.parametrize("line", ["hello", "a /help", "/etc/passwd is?", "//help", "/ help", "/Help me", '"""\n/help\n"""'])
def test_messages_are_no_commands(session: ChatSession, line: str) -> None:
    assert run_command(line, session) is None


def test_help_lists_every_command(session: ChatSession) -> None:
    outcome = run_command("/help", session)
    assert outcome is not None
    assert outcome.text == HELP
    for name in ("help", "think", "system", "save", "load", "stats", "clear", "exit"):
        assert f"/{name}" in HELP
        assert run_command(f"/{name}", session) is not None


def test_an_unknown_command_is_answered_with_the_known_ones(session: ChatSession) -> None:
    outcome = run_command("/hlep", session)
    assert outcome is not None
    assert outcome.is_error
    assert "/hlep is no command" in outcome.text
    assert "/help" in outcome.text


@pytest.mark.parametrize(("line", "expected"), [("/think on", True), ("/think off", False), ("/think", None)])
def test_think_sets_the_switch(session: ChatSession, line: str, expected: bool | None) -> None:
    session.is_thinking = not expected
    run_command(line, session)
    assert session.is_thinking is expected


def test_think_refuses_other_words(session: ChatSession) -> None:
    outcome = run_command("/think harder", session)
    assert outcome is not None
    assert outcome.is_error
    assert session.is_thinking is None


def test_think_is_refused_by_a_model_without_it_and_stays_as_it_was(session: ChatSession) -> None:
    session.llm.can_think = False
    outcome = run_command("/think on", session)
    assert outcome is not None
    assert outcome.is_error
    assert "no thinking mode" in outcome.text
    assert session.is_thinking is None


def test_help_fits_a_terminal_of_80_columns() -> None:
    assert max(map(len, HELP.splitlines())) < 80


def test_system_sets_shows_and_removes_the_message(session: ChatSession) -> None:
    run_command("/system Be brief.\nAnd kind.", session)
    assert session.system == "Be brief.\nAnd kind."
    shown = run_command("/system", session)
    assert shown is not None
    assert "Be brief." in shown.text
    run_command("/system -", session)
    assert session.system is None


def test_clear_forgets_the_messages_and_keeps_the_system_message(session: ChatSession) -> None:
    session.system = "Be brief."
    session.ask("tea?", lambda _: None, lambda: False)
    run_command("/clear", session)
    assert session.request() == [{"role": "system", "content": "Be brief."}]


def test_stats_give_tokens_and_rates_of_the_last_answer(session: ChatSession) -> None:
    session.llm.answer = said("a", "b", "c")
    session.ask("tea?", lambda _: None, lambda: False)
    outcome = run_command("/stats", session)
    assert outcome is not None
    assert "fake.gguf" in outcome.text
    assert "10 tokens, 4 of them kept from before; 3.0 tokens/s" in outcome.text  # 6 tokens in 2 s
    assert "3 tokens, 0 of them thoughts; 4.0 tokens/s" in outcome.text  # 2 after the first in 0.5 s
    assert "13 of 128 tokens" in outcome.text
    assert "7 tokens ahead, 2 of them right" in outcome.text


def test_exit_and_quit_end_the_program(session: ChatSession) -> None:
    for line in ("/exit", "/quit", " /exit "):
        outcome = run_command(line, session)
        assert outcome is not None
        assert outcome.is_end


@pytest.mark.parametrize("name", ["help", "stats", "clear", "exit"])
def test_a_command_refuses_what_it_does_not_read(session: ChatSession, name: str) -> None:
    outcome = run_command(f"/{name} now", session)
    assert outcome is not None
    assert outcome.is_error
    assert not outcome.is_end


def test_save_and_load_go_through_a_file(session: ChatSession, tmp_path: Path) -> None:
    session.ask("tea?", lambda _: None, lambda: False)
    saved = list(session.messages)
    run_command(f"/save {tmp_path / 'a chat.json'}", session)
    run_command("/clear", session)
    outcome = run_command(f"/load {tmp_path / 'a chat.json'}", session)
    assert outcome is not None
    assert "2 messages" in outcome.text
    assert session.messages == saved


@pytest.mark.parametrize("line", ["/save", "/load", "/load /no/such/file.json", "/save /no/such/folder/chat.json"])
def test_failures_of_files_are_reported_and_do_not_raise(session: ChatSession, line: str) -> None:
    outcome = run_command(line, session)
    assert outcome is not None
    assert outcome.is_error


def test_quotes_and_doubled_slashes_are_taken_off_messages() -> None:
    assert message_text('"""\nline one\n  line two\n"""') == "line one\n  line two"
    assert message_text("//help") == "/help"
    assert message_text("  plain  ") == "plain"
    assert message_text('say """this""" twice') == 'say """this""" twice'


def test_open_quotes_wait_for_more_lines() -> None:
    assert is_open('"""first line')
    assert not is_open('"""first\nsecond"""')
    assert not is_open('say """')
