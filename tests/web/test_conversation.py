"""A person talks to the real small model: ask, watch, stop, branch, go on."""

import re
import shutil

import pytest
from playwright.sync_api import expect

from tests.llm.scripted import ModelMaker
from tests.serving.processes import running
from tests.text.witnesses import template
from tests.web.steps import MESSAGES, STORY, answer_to, ask, box, chat_id, is_over, leave, open_chat, press, says, words


def test_an_answer_streams_and_names_what_it_took(page):
    open_chat(page, max_tokens=300)
    answer = ask(page, STORY)
    expect(answer).to_have_attribute("data-status", "writing")
    is_over(answer)
    assert says(answer)
    expect(answer).to_contain_text(re.compile(r"tok(ens)?/s|tokens a second", re.IGNORECASE))
    expect(box(page)).to_be_focused()


def test_an_answer_grows_on_the_page_while_the_model_writes_it(page):
    open_chat(page)
    answer = ask(page, STORY)
    lengths = set()
    for _ in range(40):
        lengths.add(len(says(answer)))
        page.wait_for_timeout(50)
    assert len(lengths) > 5
    leave(page)


def test_stop_ends_an_answer_and_keeps_what_was_written(page, server):
    open_chat(page)
    answer = ask(page, STORY)
    words(answer)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(answer).to_have_attribute("data-status", "stopped")
    stopped = server.client.get(f"/app/api/chats/{chat_id(page)}/messages").json()["messages"][-1]
    assert len(stopped["content"]) > 10
    page.wait_for_timeout(1000)
    assert server.client.get(f"/app/api/chats/{chat_id(page)}/messages").json()["messages"][-1] == stopped
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)


def test_a_stopped_answer_goes_on_where_it_ended(page):
    open_chat(page)
    answer = ask(page, STORY)
    words(answer)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(answer).to_have_attribute("data-status", "stopped")
    begun = says(words(answer))
    press(answer, "Continue")
    expect(answer).to_have_attribute("data-status", "writing")
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(answer).to_have_attribute("data-status", "stopped")
    assert says(words(answer)).startswith(begun)
    expect(page.locator(MESSAGES)).to_have_count(2)


def test_an_edited_question_is_a_branch_and_both_can_be_walked(page):
    open_chat(page, max_tokens=40)  # all messages stay in view
    first = beginning(is_over(ask(page, "What is the capital of France?")))
    question = page.locator(f"{MESSAGES}[data-role=user]").last
    press(question, "Edit")
    editor = page.get_by_role("textbox", name=re.compile("edit", re.IGNORECASE))
    editor.fill("What is the capital of Germany?")
    editor.press("Enter")
    second = beginning(is_over(answer_to(page, "What is the capital of Germany?")))
    expect(page.locator(MESSAGES)).to_have_count(2)
    press(page.locator(f"{MESSAGES}[data-role=user]").last, "Previous version")
    expect(page.locator(f"{MESSAGES}[data-role=user]").last).to_contain_text("France")
    expect(page.locator(MESSAGES).last).to_contain_text(first)
    press(page.locator(f"{MESSAGES}[data-role=user]").last, "Next version")
    expect(page.locator(MESSAGES).last).to_contain_text(second)
    page.reload()  # the branch that was looked at last is the chat's
    expect(page.locator(MESSAGES).last).to_contain_text(second)


def beginning(answer):
    """The first line of what the model has written."""
    return answer.locator(".markdown").first.inner_text().split("\n")[0]


def test_another_answer_stands_beside_the_first(page):
    open_chat(page, max_tokens=40)  # all messages stay in view
    first = is_over(ask(page, "Name a colour."))
    first_id = first.get_attribute("data-message-id")
    press(first, "Regenerate")
    second = page.locator(MESSAGES).last
    expect(second).not_to_have_attribute("data-message-id", first_id)
    is_over(second)
    press(second, "Previous version")
    expect(page.locator(MESSAGES).last).to_have_attribute("data-message-id", first_id)
    expect(page.locator(MESSAGES)).to_have_count(2)


def test_a_chat_gets_a_title_after_its_first_answer(page):
    is_over(ask(page, "What is the capital of Portugal?"))
    entry = page.locator(f'a[href$="#/c/{chat_id(page)}"]').first
    expect(entry).to_have_text(re.compile(r"\w{3,}"), timeout=30_000)
    expect(entry).not_to_have_text(re.compile("^(New chat|Untitled)$", re.IGNORECASE), timeout=30_000)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory, browser):
    """A server with a small model that can think. Its weights are random: what it says is noise, and ends by its limits."""
    folder = tmp_path_factory.mktemp("thinker")
    model = folder / "model"
    model.mkdir()
    ModelMaker(model)
    file = folder / "chat.jinja"
    source, switch, rest = template("qwen3").rpartition("{%- if enable_thinking is defined and enable_thinking is false %}")
    opens = rest.replace("{%- endif %}", "{%- else %}{{- '<think>\\n' }}{%- endif %}", 1)  # noise does not open it by itself
    file.write_text(source + switch + opens)
    with running(folder, f"thinker={model}", "--chat-template-file", str(file), "--threads", "1", "--no-cache") as server:
        server.client.headers["X-Samovar-App"] = "1"
        yield server
    shutil.rmtree(folder)


def test_the_mode_decides_whether_the_model_thinks_and_the_budget_how_long(visit, thinker):
    page = visit(thinker.url)
    settings = {"thinking_budget": 24, "max_tokens": 96}
    chat = thinker.client.post("/app/api/chats", json={"settings": settings}).json()
    page.goto(f"{thinker.url}/#/c/{chat['id']}")
    choose_mode(page, "Thinking")
    is_over(ask(page, "A question to think about?"))
    thought = thinker.client.get(f"/app/api/chats/{chat['id']}/messages").json()["messages"][-1]
    assert thought["thoughts"]
    assert 0 < thought["stats"]["n_thinking"] <= 24 + 40  # the text that closes the thoughts counts, too
    panel = page.locator(MESSAGES).last.get_by_role("button", name=re.compile("thought|thinking", re.IGNORECASE)).first
    expect(panel).to_have_attribute("aria-expanded", "false")
    choose_mode(page, "Fast")
    is_over(ask(page, "Another one?"))
    quick = thinker.client.get(f"/app/api/chats/{chat['id']}/messages").json()["messages"][-1]
    assert not quick["thoughts"]
    assert quick["settings"]["mode"] == "fast"


def choose_mode(page, name):
    """As the person does: in the switch beside the box."""
    page.get_by_role("group").locator("label").filter(has_text=name).click()
    expect(page.get_by_role("radio", name=name)).to_be_checked()
