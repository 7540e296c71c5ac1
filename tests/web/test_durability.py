"""Nothing is lost: a reload, a second tab, a server that dies."""

import urllib.parse

import pytest
from playwright.sync_api import expect

from tests.real_models import SMOLLM2, real_model
from tests.serving.processes import running
from tests.web.steps import MESSAGES, STORY, ask, chat_id, is_over, open_chat, press, same, says, words


def stop(page):
    page.get_by_role("button", name="Stop", exact=True).click()


def test_a_reload_in_mid_answer_loses_nothing(page):
    open_chat(page)
    answer = ask(page, STORY)
    words(answer)
    before = says(words(answer))
    page.reload()
    answer = same(page.locator(MESSAGES).last)
    expect(answer).to_contain_text(before[:20])
    length = len(says(answer))
    page.wait_for_timeout(1000)
    assert len(says(answer)) > length  # and it goes on
    stop(page)
    expect(answer).to_have_attribute("data-status", "stopped")


def test_an_answer_is_written_to_its_end_without_a_page(visit, server):
    page = visit(server.url)
    open_chat(page, max_tokens=100)
    ask(page, "Count from one to ten in words.")
    chat = chat_id(page)
    page.close()
    page = visit(f"{server.url}/#/c/{chat}")
    answer = is_over(same(page.locator(MESSAGES).last))
    assert len(says(answer)) > 10


def test_two_tabs_show_the_same_answer_grow_and_either_stops_it(visit, server):
    first = visit(server.url)
    open_chat(first)
    answer = ask(first, STORY)
    second = visit(f"{server.url}/#/c/{chat_id(first)}", beside=first)
    there = same(second.locator(MESSAGES).last)
    expect(there).to_have_attribute("data-status", "writing")
    length = len(says(there))
    second.wait_for_timeout(1500)
    assert len(says(there)) > length
    stop(second)
    for each in (there, answer):
        expect(each).to_have_attribute("data-status", "stopped")
    assert says(words(answer)) == says(words(there))
    ask(second, "Thank you.")  # and what is asked in one appears in the other
    expect(first.locator(f"{MESSAGES}[data-role=user]").last).to_contain_text(
        "Thank you."
    )  # those above may be out of the page


@pytest.fixture
def mortal(tmp_path, browser):
    """Starts a server with the small model over and over, at the same address and with the same store."""

    def start(url=None):
        port = () if url is None else ("--port", str(urllib.parse.urlsplit(url).port))
        return running(tmp_path, f"smollm2={real_model(SMOLLM2)}", *port)

    return start


def test_a_server_that_dies_in_mid_answer_is_told_and_comes_back_with_what_was_written(visit, mortal):
    with mortal() as server:
        url = server.url
        page = visit(url, allows=(r"ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE",))
        open_chat(page)
        answer = ask(page, STORY)
        words(answer)
        page.wait_for_timeout(2500)  # it is kept at least once a second
        begun = says(words(answer))
    expect(page.get_by_text("The server cannot be reached")).to_be_visible()
    with mortal(url):
        expect(answer).to_have_attribute("data-status", "interrupted", timeout=30_000)
        kept = says(words(answer))
        assert kept
        assert begun.startswith(kept) or kept.startswith(begun)
        press(answer, "Continue")
        expect(answer).to_have_attribute("data-status", "writing")
        stop(page)
        expect(answer).to_have_attribute("data-status", "stopped")
        assert says(words(answer)).startswith(kept)
