"""What the page does where the browser, the network or a slip of the hand stands in the way."""

from playwright.sync_api import expect

from tests.web.steps import MESSAGES, box, open_chat, press

TEXT = "Write a very long story about a ship,\n\nin many  chapters."
NO_CLIPBOARD = "Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined })"
NOTICES = ".notices .card"


def test_copying_works_where_the_browser_gives_no_clipboard_and_esc_stops(visit, server):
    page = visit(server.url)
    page.add_init_script(NO_CLIPBOARD)  # as over plain http beyond loopback
    page.reload()
    open_chat(page)
    box(page).fill(TEXT)
    box(page).press("Enter")
    answer = page.locator(f"{MESSAGES}[data-role=assistant]").last
    expect(answer).to_have_attribute("data-status", "writing")
    box(page).press("Escape")
    expect(answer).to_have_attribute("data-status", "stopped")
    press(page.locator(f"{MESSAGES}[data-role=user]").last, "Copy")
    box(page).focus()
    page.keyboard.press("ControlOrMeta+V")
    expect(box(page)).to_have_value(TEXT)
    expect(page.locator(NOTICES)).to_have_count(0)


def test_a_notice_covers_neither_header_nor_composer_and_goes_when_the_server_is_back(visit, server):
    page = visit(server.url, allows=(r"ERR_INTERNET_DISCONNECTED", r"Failed to load"))
    page.set_viewport_size({"width": 360, "height": 640})
    box(page).fill("typed text")
    page.context.set_offline(True)
    box(page).press("Enter")
    notice = page.locator(NOTICES).filter(has_text="The server cannot be reached.")
    expect(notice).to_be_visible()
    place, header = notice.bounding_box(), page.locator("main header").bounding_box()
    assert header["y"] + header["height"] <= place["y"]
    assert place["y"] + place["height"] <= page.locator("form.composer").bounding_box()["y"]
    page.context.set_offline(False)
    expect(notice).to_have_count(0, timeout=15_000)
    expect(box(page)).to_have_value("typed text")
    page.reload()
    expect(box(page)).to_have_value("typed text")


def test_a_file_dropped_beside_the_composer_is_attached_and_the_app_stays(page):
    expect(box(page)).to_be_visible()
    is_prevented = page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(["a"], "beside.txt", { type: "text/plain" }));
            const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
            return !document.querySelector("nav").dispatchEvent(event);
        }"""
    )
    assert is_prevented
    expect(page.get_by_text("beside.txt").first).to_be_visible()
