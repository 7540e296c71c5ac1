"""Answers are jobs of the server: pages come and go, and nothing is lost."""

from tests.app.app_client import folded_text, wait_for
from tests.engine.scripted import by_position
from tests.llm.scripted import scripted, spelled

TEXT = "Grüße, 東京 🙂! " * 20


def test_an_answer_is_written_streamed_and_kept_with_its_numbers(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast"})
    with scripted(hybrid, by_position(spelled(hybrid, "Hello there."))):
        answer = app.ask(chat)
        assert (answer["status"], answer["role"]) == ("writing", "assistant")
        done = app.ended(answer)
    assert (done["content"], done["status"], done["thoughts"], done["error"]) == ("Hello there.", "done", None, None)
    stats = done["stats"]
    assert stats["n_completion"] == len("Hello there.") + 1
    assert 0 <= stats["first_token_ms"] <= stats["total_ms"]
    assert stats["max_context"] == hybrid.max_context
    assert [m["content"] for m in app.messages(chat)["messages"]] == ["Hello", "Hello there."]
    assert app.get(f"/chats/{chat['id']}").json()["leaf_id"] == answer["id"]
