"""Answers are jobs of the server: pages come and go, and nothing is lost."""

import threading
import time

import pytest

from tests.app.app_client import folded_text, served_app, wait_for
from tests.engine.scripted import by_position, thinker
from tests.llm.scripted import broken, scripted, spelled

TEXT = "Grüße, 東京 🙂! " * 12


def slowly(wanted, seconds=0.005):
    def say(prompt_ids, generated_ids):
        time.sleep(seconds)
        return wanted(prompt_ids, generated_ids)

    return say


def thinks(llm, thoughts, answer):
    tokens = llm.tokenizer
    blank = tokens.encode("\n\n")[0]
    close = tokens.control_tokens["</think>"]
    return thinker(
        [tokens.control_tokens["<think>"], *tokens.encode("\n"), *tokens.encode(thoughts), *tokens.encode("\n"), close],
        [*tokens.encode(answer), tokens.eos_id],
        close,
        (blank,),
    )


def test_an_answer_is_written_streamed_and_kept_with_its_numbers(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast", "seed": 7})
    with scripted(hybrid, by_position(spelled(hybrid, "Hello there."))):
        answer = app.ask(chat)
        assert (answer["status"], answer["role"]) == ("writing", "assistant")
        done = app.ended(answer)
    assert (done["content"], done["status"], done["thoughts"], done["error"]) == ("Hello there.", "done", None, None)
    stats = done["stats"]
    assert stats["n_completion"] == len("Hello there.") + 1
    assert 0 <= stats["first_token_ms"] <= stats["total_ms"]
    assert (stats["max_context"], stats["seed"]) == (hybrid.max_context, 7)
    assert (done["model"], done["settings"]) == ("hybrid", {"mode": "fast", "seed": 7})
    assert [m["content"] for m in app.messages(chat)["messages"]] == ["Hello", "Hello there."]
    assert app.get(f"/chats/{chat['id']}").json()["leaf_id"] == answer["id"]


def test_an_answer_without_a_bound_of_its_own_is_cut_and_can_be_continued(app, hybrid, monkeypatch):
    monkeypatch.setattr("samovar.app.answering.DEFAULT_ANSWER_TOKENS", 20)
    words = "".join(chr(97 + i * i * i % 23) for i in range(200))
    chat = app.new_chat()
    with scripted(hybrid, slowly(thinks(hybrid, "thoughts are not counted", words))):
        done = app.ended(app.ask(chat))
    assert (done["thoughts"], done["content"], done["status"]) == ("thoughts are not counted", done["content"], "length")
    assert 20 <= done["stats"]["n_completion"] - done["stats"]["n_thinking"] < 30
    assert words.startswith(done["content"])
    with scripted(hybrid, by_position(spelled(hybrid, "more"))):
        more = app.ended(app.post(f"/messages/{done['id']}/continue").json()["answer"])
    assert (more["content"], more["status"]) == (done["content"] + "more", "done")
    with scripted(hybrid, by_position(spelled(hybrid, words))):
        own = app.ended(app.ask(app.new_chat(settings={"mode": "fast", "max_tokens": 20})))
    assert (own["content"], own["status"]) == (words[:20], "length")


def test_an_answer_goes_on_when_no_page_follows_it(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast"})
    with scripted(hybrid, slowly(by_position(spelled(hybrid, "All by itself")))):
        answer = app.ask(chat)
        with app.client.stream("GET", f"/app/api/messages/{answer['id']}/events") as reply:
            next(reply.iter_lines())
        wait_for(lambda: not app.app.live)
    kept = app.read("SELECT content, status FROM messages WHERE id = ?", answer["id"])
    assert kept == [{"content": "All by itself", "status": "done"}]


def test_pages_that_join_in_mid_answer_see_every_character_once(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast"})
    shown = []

    def follow(answer):
        shown.append(folded_text(app.events(f"/messages/{answer['id']}/events")))

    with scripted(hybrid, slowly(by_position(spelled(hybrid, TEXT)), 0.003)):
        answer, pages = app.ask(chat), []
        for _ in range(6):
            pages.append(threading.Thread(target=follow, args=(answer,)))
            pages[-1].start()
            time.sleep(0.1)
        for page in pages:
            page.join(60)
    late = folded_text(app.events(f"/messages/{answer['id']}/events"))
    assert shown == [(TEXT, "")] * 6
    assert late == (TEXT, "")


def test_a_reload_in_mid_answer_shows_what_is_there_by_then(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast"})
    with scripted(hybrid, slowly(by_position(spelled(hybrid, TEXT)))):
        answer = app.ask(chat)
        part = wait_for(lambda: app.messages(chat)["messages"][-1]["content"])
        assert app.get(f"/chats/{chat['id']}").json()["is_answering"]
        app.ended(answer)
    assert 0 < len(part) < len(TEXT)
    assert TEXT.startswith(part)
    assert not app.get(f"/chats/{chat['id']}").json()["is_answering"]


def test_what_grows_is_in_the_database_within_a_second(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast"})
    with scripted(hybrid, slowly(by_position(spelled(hybrid, "x" * 2000)), 0.01)):
        answer = app.ask(chat)
        wait_for(lambda: app.read("SELECT content FROM messages WHERE id = ?", answer["id"])[0]["content"], 3)
        time.sleep(1.2)
        kept = app.read("SELECT length(content) AS n, status FROM messages WHERE id = ?", answer["id"])[0]
        seen = len(app.messages(chat)["messages"][-1]["content"])
        app.post(f"/messages/{answer['id']}/stop")
    assert kept["status"] == "writing"
    assert 20 < kept["n"] < seen + 1


def test_stop_keeps_what_is_there(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast"})
    with scripted(hybrid, slowly(by_position(spelled(hybrid, "y" * 3000)), 0.01)):
        answer = app.ask(chat)
        wait_for(lambda: len(app.messages(chat)["messages"][-1]["content"]) > 5)
        stopped = app.post(f"/messages/{answer['id']}/stop").json()["message"]
    assert (stopped["status"], set(stopped["content"])) == ("stopped", {"y"})
    assert 5 < len(stopped["content"]) < 3000
    assert stopped["stats"]["n_completion"] >= len(stopped["content"])
    assert app.messages(chat)["messages"][-1]["content"] == stopped["content"]
    assert app.post(f"/messages/{answer['id']}/stop").json()["message"] == stopped, "to stop it again changes nothing"


def test_thoughts_come_apart_from_the_answer(app, hybrid):
    chat = app.new_chat(settings={"mode": "thinking"})
    with scripted(hybrid, slowly(thinks(hybrid, "Let me see. 🙂", "Four."))):
        content, thoughts = folded_text(app.events(f"/messages/{app.ask(chat)['id']}/events"))
    last = app.messages(chat)["messages"][-1]
    assert (content, thoughts) == (last["content"], last["thoughts"]) == ("Four.", "Let me see. 🙂")
    assert last["stats"]["n_thinking"] > 0
    assert last["stats"]["thinking_ms"] > 0


def test_thoughts_are_not_sent_back(app, hybrid):
    chat, prompts = app.new_chat(settings={"mode": "thinking"}), []
    with scripted(hybrid, thinks(hybrid, "SECRETLY", "Four.")):
        first = app.ended(app.ask(chat))
    with scripted(hybrid, lambda ids, _: prompts.append(ids) or hybrid.tokenizer.eos_id):
        app.ended(app.ask(chat, "And then?", first["id"]))
    text = hybrid.tokenizer.decode(prompts[0])
    assert "Four." in text
    assert "SECRETLY" not in text


def test_the_thinking_budget_is_held_by_the_server(app, hybrid):
    chat = app.new_chat(settings={"mode": "thinking", "thinking_budget": 40})
    with scripted(hybrid, thinks(hybrid, "on and on, " * 200, "Done.")):
        done = app.ended(app.ask(chat))
    assert done["content"] == "Done."
    assert 0 < done["stats"]["n_thinking"] <= 40


def test_the_limit_of_tokens_ends_an_answer(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast", "max_tokens": 5})
    with scripted(hybrid, by_position(spelled(hybrid, "z" * 100))):
        done = app.ended(app.ask(chat))
    assert (done["status"], done["content"]) == ("length", "zzzzz")


def test_a_model_that_never_stops_is_ended_by_its_context(models, tmp_path):
    llm = models.load("hybrid", max_context=256)
    letters = llm.tokenizer.encode("abcdefghijklmnopqrstuvwxyz")
    with served_app({"small": llm}, tmp_path) as app, scripted(llm, lambda _, g: letters[len(g) ** 2 % len(letters)]):
        done = app.ended(app.ask(app.new_chat(settings={"mode": "fast"})))
        assert done["status"] == "length"
        assert done["stats"]["n_prompt"] + done["stats"]["n_completion"] <= 256
        long = app.ended(app.ask(app.new_chat(), "word " * 1000))
    llm.close()
    assert long["status"] == "failed"
    assert long["error_code"] == "too_long"
    assert "reads at most 256 with its answer" in long["error"]


def test_an_answer_that_goes_round_in_circles_says_so(app, hybrid):
    (letter,) = spelled(hybrid, "a")[:1]
    with scripted(hybrid, lambda *_: letter):
        done = app.ended(app.ask(app.new_chat(settings={"mode": "fast"})))
    assert (done["status"], done["error_code"]) == ("stopped", "loop")
    assert "in circles" in done["error"]


def test_an_error_of_the_engine_ends_the_answer_with_words(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast"})
    with broken(hybrid, lambda _: True):
        done = app.ended(app.ask(chat))
    assert (done["status"], done["error_code"]) == ("failed", "server_error")
    assert done["error"]
    with scripted(hybrid, by_position(spelled(hybrid, "Better"))):
        again = app.post(f"/messages/{done['id']}/regenerate").json()["answer"]
        assert app.ended(again)["content"] == "Better"


def test_an_unknown_model_or_setting_is_refused_by_name(app):
    chat = app.new_chat()
    for path, body, word in (
        ("/chats", {"model": "gpt-5"}, "gpt-5"),
        ("/chats", {"settings": {"temprature": 1}}, "temprature"),
        ("/chats", {"settings": {"temperature": -1}}, "temperature"),
        ("/chats", {"settings": {"mode": "auto"}}, "auto"),
        (f"/chats/{chat['id']}/messages", {"parent_id": None, "content": "x", "settings": {"mode": "slow"}}, "mode"),
        (f"/chats/{chat['id']}/messages", {"content": "x"}, "parent_id"),
        (f"/chats/{chat['id']}/messages", {"parent_id": None, "content": " "}, "content"),
    ):
        reply = app.post(path, **body)
        assert reply.status_code == 400, reply.text
        assert word in reply.json()["error"]["message"]
    assert app.messages(chat)["messages"] == []


@pytest.mark.parametrize("change", [{"parent_id": "nobody"}, {"files": ["nothing"]}])
def test_a_message_refers_to_things_of_its_chat_alone(app, change):
    chat = app.new_chat()
    reply = app.post(f"/chats/{chat['id']}/messages", **{"parent_id": None, "content": "x", **change})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert app.messages(chat)["messages"] == []


def test_a_message_of_more_than_a_million_characters_is_refused_in_words(app):
    reply = app.post(f"/chats/{app.new_chat()['id']}/messages", parent_id=None, content="x" * 1_000_001)
    assert reply.status_code == 413
    assert "attach it as a file" in reply.json()["error"]["message"]


def test_a_schema_is_held_and_marked(app, hybrid):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
    chat = app.new_chat(settings={"mode": "fast", "json_schema": schema})
    with scripted(hybrid, by_position(spelled(hybrid, '{"n": 12}'))):
        whole = app.ended(app.ask(chat))
        cut = app.ended(app.post(f"/messages/{whole['id']}/regenerate", settings={"max_tokens": 4}).json()["answer"])
    assert (whole["content"], whole["is_json_valid"]) == ('{"n": 12}', True)
    assert (cut["status"], cut["is_json_valid"]) == ("length", False)
    reply = app.post(f"/messages/{cut['id']}/continue")
    assert reply.status_code == 409
    assert "schema" in reply.json()["error"]["message"]


TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def test_calls_are_kept_and_their_results_come_from_the_person(app, hybrid):
    chat, prompts = app.new_chat(settings={"mode": "fast", "tools": [TOOL]}), []
    opening, closing = (hybrid.tokenizer.control_tokens[t] for t in ("<tool_call>", "</tool_call>"))
    body = hybrid.tokenizer.encode('\n{"name": "weather", "arguments": {"city": "東京"}}\n')
    with scripted(hybrid, by_position([opening, *body, closing, hybrid.tokenizer.eos_id])):
        asked = app.ask(chat)
        pieces = [data["tool_calls"] for name, data in app.events(f"/messages/{asked['id']}/events") if "tool_calls" in data]
    called = app.messages(chat)["messages"][-1]
    (call,) = called["tool_calls"]
    assert (call["name"], call["arguments"], called["status"]) == ("weather", '{"city": "東京"}', "done")
    assert pieces[-1] == [call]
    wrong = app.post(f"/chats/{chat['id']}/messages", parent_id=called["id"], role="tool", tool_call_id="x", content="sun")
    assert (wrong.status_code, call["id"] in wrong.json()["error"]["message"]) == (400, True)
    with scripted(hybrid, lambda ids, _: prompts.append(ids) or hybrid.tokenizer.eos_id):
        app.ended(app.ask(chat, "Sunny!", called["id"], role="tool", tool_call_id=call["id"]))
    text = hybrid.tokenizer.decode(prompts[0])
    assert "<tool_response>\nSunny!\n</tool_response>" in text
    assert '"name": "weather", "arguments": {"city": "東京"}' in text
    assert app.post(f"/messages/{called['id']}/continue").status_code == 409


def test_a_cut_answer_goes_on_where_it_ended(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast", "max_tokens": 9})
    with scripted(hybrid, by_position(spelled(hybrid, "The water is hot."))):
        cut = app.ended(app.ask(chat))
    assert cut["content"] == "The water"
    prompts = []

    def rest(ids, generated):
        prompts.append(ids)
        script = spelled(hybrid, " is ok.")
        return script[min(len(generated), len(script) - 1)]

    with scripted(hybrid, rest):
        going = app.post(f"/messages/{cut['id']}/continue").json()["answer"]
        assert (going["id"], going["status"], going["content"]) == (cut["id"], "writing", "The water")
        content, _ = folded_text(app.events(f"/messages/{cut['id']}/events"))
    done = app.messages(chat)["messages"][-1]
    assert content == done["content"] == "The water is ok."
    assert hybrid.tokenizer.decode(prompts[0]).endswith("</think>\n\nThe water")
    assert (done["status"], done["stats"]["n_completion"]) == ("done", 9 + len(" is ok.") + 1)
    whole = app.post(f"/messages/{cut['id']}/continue")
    assert (whole.status_code, whole.json()["error"]["code"]) == (409, "cannot_continue")


def test_an_answer_that_was_cut_while_thinking_says_why_it_cannot_go_on(app, hybrid):
    chat = app.new_chat(settings={"mode": "thinking"})
    with scripted(hybrid, slowly(thinks(hybrid, "hm, " * 500, "Never"), 0.01)):
        answer = app.ask(chat)
        wait_for(lambda: app.messages(chat)["messages"][-1]["thoughts"])
        stopped = app.post(f"/messages/{answer['id']}/stop").json()["message"]
    assert (stopped["status"], stopped["content"]) == ("stopped", "")
    assert stopped["thoughts"].startswith("hm")
    reply = app.post(f"/messages/{answer['id']}/continue")
    assert reply.status_code == 409
    assert "while the model was thinking" in reply.json()["error"]["message"]


def test_nothing_is_written_below_an_answer_in_the_making(app, hybrid):
    chat = app.new_chat(settings={"mode": "fast"})
    with scripted(hybrid, slowly(by_position(spelled(hybrid, "w" * 3000)), 0.01)):
        answer = app.ask(chat)
        reply = app.post(f"/chats/{chat['id']}/messages", parent_id=answer["id"], content="And?")
        other = app.post(f"/messages/{answer['id']}/regenerate").json()["answer"]
        both = app.messages(chat)["messages"][-1]["siblings"]
        for one in (answer, other):
            app.post(f"/messages/{one['id']}/stop")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "is_writing")
    assert both == [answer["id"], other["id"]], "two answers may be made at once"


def test_models_without_a_choice_do_what_they_can_and_say_what_they_cannot(models, tmp_path):
    always, never = models.load("always"), models.load("never")
    with served_app({"always": always, "never": never}, tmp_path) as app:
        assert [m["thinking"] for m in app.get("/models").json()["models"]] == ["always", "none"]

        def answered(model, mode):
            return app.ended(app.ask(app.new_chat(model=model, settings={"mode": mode, "max_tokens": 30})))

        refused = answered("always", "fast")
        assert (refused["status"], "always thinks" in refused["error"]) == ("failed", True)
        refused = answered("never", "thinking")
        assert (refused["status"], "no thinking mode" in refused["error"]) == ("failed", True)
        with scripted(never, by_position(spelled(never, "Quick"))):
            assert answered("never", "fast")["content"] == "Quick"
        chat = app.new_chat(model="always")
        app.post(f"/chats/{chat['id']}/messages", parent_id=None, content="Tea?", answer=False)
        close = always.tokenizer.control_tokens["</think>"]
        title = thinker(always.tokenizer.encode("hm"), spelled(always, "On tea"), close, (always.tokenizer.encode("\n\n")[0],))
        with scripted(always, title):
            assert app.post(f"/chats/{chat['id']}/title").json() == {"title": "On tea"}
    for llm in (always, never):
        llm.close()


def test_the_texts_of_files_come_before_the_message(app, hybrid):
    chat, prompts = app.new_chat(settings={"mode": "fast"}), []
    file = app.client.post("/app/api/files", files={"file": ("notes.md", b"Use ```three``` ticks\n```\ncode\n```\n")}).json()
    with scripted(hybrid, lambda ids, _: prompts.append(ids) or hybrid.tokenizer.eos_id):
        first = app.ended(app.ask(chat, "What is this?", files=[file["id"]]))
        question = app.messages(chat)["messages"][0]
        app.ended(app.ask(chat, "What is that?", files=[file["id"]]))
        edited = app.messages(chat)["messages"][0]
    text = hybrid.tokenizer.decode(prompts[0])
    assert "user\nnotes.md\n````\nUse ```three``` ticks\n```\ncode\n```\n````\n\nWhat is this?<|im_end|>" in text
    assert [f["id"] for f in question["files"]] == [file["id"]]
    assert [f["name"] for f in edited["files"]] == ["notes.md"], "an edit takes the files along"
    assert edited["files"] != question["files"]
    assert "notes.md" in hybrid.tokenizer.decode(prompts[1])
    assert first["status"] == "done"
