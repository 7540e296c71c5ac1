"""Files in a message, and chats that leave the app."""

import json

from playwright.sync_api import expect

from tests.web.steps import MESSAGES, answer_to, ask, box, chat_id, is_over, open_chat


def attach(page, name, data, media_type):
    """Through the file chooser."""
    page.locator("input[type=file]").first.set_input_files({"name": name, "mimeType": media_type, "buffer": data})


def test_a_file_goes_with_the_message_and_reaches_the_model(page, server):
    open_chat(page)
    attach(page, "password.txt", b"The password of the day is Heron.\n", "text/plain")
    expect(page.get_by_text("password.txt").first).to_be_visible()
    is_over(ask(page, "What is the password of the day?"))
    expect(page.locator(f"{MESSAGES}[data-role=user]").last).to_contain_text("password.txt")
    question, answer = server.client.get(f"/app/api/chats/{chat_id(page)}/messages").json()["messages"]
    assert [file["name"] for file in question["files"]] == ["password.txt"]
    assert answer["stats"]["n_prompt"] > 40
    assert "Heron" in answer["content"]


def test_a_message_that_is_sent_before_its_file_is_there_goes_with_it(page, server):
    held = []
    page.route("**/app/api/files*", lambda route: held.append(route))  # Playwright looks into functions
    attach(page, "password.txt", b"The password of the day is Heron.\n", "text/plain")
    box(page).fill("What is the password of the day?")
    box(page).press("Enter")
    expect(page.locator(MESSAGES)).to_have_count(0)
    held[0].continue_()
    is_over(answer_to(page, "What is the password of the day?"))
    question, _ = server.client.get(f"/app/api/chats/{chat_id(page)}/messages").json()["messages"]
    assert [file["name"] for file in question["files"]] == ["password.txt"]


def test_a_file_that_is_dropped_is_attached_and_can_be_taken_off(page):
    transfer = page.evaluate_handle(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["a,b\\n1,2\\n"], "table.csv", { type: "text/csv" }));
            return data;
        }"""
    )
    box(page).dispatch_event("dragover", {"dataTransfer": transfer})
    box(page).dispatch_event("drop", {"dataTransfer": transfer})
    expect(page.get_by_text("table.csv").first).to_be_visible()
    page.get_by_role("button", name="Remove table.csv").click()
    expect(page.get_by_text("table.csv")).to_have_count(0)


def test_a_file_that_cannot_be_read_is_refused_in_words(visit, server):
    page = visit(server.url, allows=(r"the server responded with a status of 4",))
    attach(page, "broken.pdf", b"%PDF-1.7\nand then nothing of the kind", "application/pdf")
    expect(page.get_by_text("broken.pdf").first).to_be_visible()
    expect(page.get_by_role("alert").or_(page.get_by_role("status")).filter(has_text="broken.pdf").first).to_be_visible()


def test_a_chat_is_exported_as_it_is(page, server):
    is_over(ask(page, "What is the capital of Spain?"))
    markdown = server.client.get(f"/app/api/chats/{chat_id(page)}/export", params={"form": "markdown"}).text
    assert "What is the capital of Spain?" in markdown
    as_json = server.client.get(f"/app/api/chats/{chat_id(page)}/export", params={"form": "json"}).text
    assert "What is the capital of Spain?" in json.dumps(json.loads(as_json))
