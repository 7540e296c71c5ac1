"""Chats of the past: found, sorted, named, put away, deleted."""

import json
import re

from playwright.sync_api import expect

from tests.web.seeds import bring_in, conversation, planted
from tests.web.steps import MESSAGES


def chats(page):
    """The list of chats."""
    return page.get_by_role("navigation", name="Chats")


def search(page, text):
    """In the list's own field."""
    page.get_by_role("searchbox").first.fill(text)


def choose(page, title, action):
    """An entry of the menu of a chat in the list."""
    chats(page).get_by_role("listitem").filter(has_text=title).hover()
    chats(page).get_by_role("button", name=f"Actions for “{title}”").click()
    page.get_by_role("menuitem", name=action, exact=True).click()


def test_search_finds_words_of_messages_in_any_script_and_leads_to_them(visit, server):
    filler = [f"filler {i}" for i in range(300)]
    texts = [*filler, "The zanzibarian tortoise sleeps.", "好的，向日葵开花了。", *filler]
    planted(server, "Garden notes", texts)
    for wanted in ("zanzibarian", "tortoise sle", "向日葵", "葵", "Zanzibárian"):
        page = visit(server.url)
        search(page, wanted)
        hit = chats(page).get_by_role("link").filter(has_text=re.compile("tortoise|向日葵")).first
        expect(hit).to_be_visible()
        hit.click()
        expect(page.locator(MESSAGES).filter(has_text=re.compile("tortoise|向日葵")).first).to_be_in_viewport()


def test_a_search_without_hits_says_so(page):
    search(page, "qqqqzzzz")
    expect(page.get_by_text("Nothing found.")).to_be_visible()


def test_a_chat_is_renamed_pinned_archived_and_deleted(visit, server):
    page = visit(planted(server, "Shopping list", ["bread?", "and butter"]))
    bring_in(server, [conversation("A newer chat", ["hello", "hello"])])
    choose(page, "Shopping list", "Rename")
    field = page.get_by_role("textbox", name="New name of “Shopping list”")
    field.fill("Provisions")
    field.press("Enter")
    expect(chats(page).get_by_text("Provisions")).to_be_visible()
    choose(page, "Provisions", "Pin")
    expect(chats(page).get_by_role("listitem").first).to_contain_text("Provisions")
    choose(page, "Provisions", "Archive")
    expect(chats(page).get_by_text("Provisions")).to_have_count(0)
    archived = server.client.get("/app/api/chats", params={"archived": 1}).json()["chats"]
    assert "Provisions" in [chat["title"] for chat in archived]


def test_a_deleted_chat_is_gone_for_good(visit, server):
    page = visit(planted(server, "A secret to delete", ["xylographic secret", "kept"]))
    choose(page, "A secret to delete", "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(chats(page).get_by_text("A secret to delete")).to_have_count(0)
    assert server.client.get("/app/api/chats", params={"query": "xylographic"}).json()["chats"] == []


def test_chats_of_another_program_are_imported_through_the_page(visit, server, tmp_path):
    file = tmp_path / "conversations.json"
    file.write_text(json.dumps([conversation("From elsewhere", ["Do you remember me?", "I do."])]))
    page = visit(f"{server.url}/#/settings")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=re.compile("import", re.IGNORECASE)).first.click()
    chooser.value.set_files(file)
    expect(chats(page).get_by_text("From elsewhere").first).to_be_visible()
