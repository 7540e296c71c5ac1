"""What a person does in the app, and what they see. Names are those that a screen reader says, in English."""

import contextlib
import re
from urllib.parse import urljoin

from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

MESSAGES = "[data-message-id]"
IS_OVER = re.compile("done|length|stopped")
STORY = "Write a very long story about a ship, in many chapters."


def open_chat(page: Page, **settings: object) -> None:
    """Go to a new chat with such settings. Its seed is set, so that the model says the same in each run: to STORY the small
    one then has 2,000 words to say, where with another it may go round in circles, or say one and end.
    """
    wanted = {"settings": {"temperature": 0.7, "seed": 7} | settings}
    made = page.request.post(urljoin(page.url, "/app/api/chats"), headers={"X-Samovar-App": "1"}, data=wanted)
    page.goto(urljoin(page.url, f"/#/c/{made.json()['id']}"))


def box(page: Page) -> Locator:
    """Where messages are written."""
    return page.get_by_role("textbox", name="Message", exact=True)


def ask(page: Page, text: str) -> Locator:
    """Send a message. Returns the answer, which has begun."""
    box(page).fill(text)
    box(page).press("Enter")
    return answer_to(page, text)


def answer_to(page: Page, text: str) -> Locator:
    """The answer below the last message with this text, once it is there."""
    expect(page.locator(f"{MESSAGES}[data-role=user]").last).to_contain_text(text)
    last = page.locator(MESSAGES).last
    expect(last).to_have_attribute("data-role", "assistant")
    return same(last)


def same(message: Locator) -> Locator:
    """A message that stays the same when others come."""
    return message.page.locator(f'[data-message-id="{message.get_attribute("data-message-id")}"]')


def words(answer: Locator) -> Locator:
    """The first paragraph of what the model has written. Waits until it has a few words."""
    paragraph = answer.locator(".markdown p").first
    expect(paragraph).to_have_text(re.compile(r"\w+ \w+ \w+ \w+"))
    return paragraph


def is_over(answer: Locator, seconds: float = 60) -> Locator:
    """Wait until an answer is written. Returns it."""
    expect(answer).to_have_attribute("data-status", IS_OVER, timeout=seconds * 1000)
    return answer


def leave(page: Page) -> None:
    """Stop what the model may still be writing: other tests want the processor."""
    with contextlib.suppress(PlaywrightTimeout):
        page.get_by_role("button", name="Stop", exact=True).click(timeout=1000)


def press(message: Locator, name: str) -> None:
    """One of a message's buttons, which may show under the pointer alone."""
    message.hover()
    message.get_by_role("button", name=name, exact=True).click()


def says(message: Locator) -> str:
    """Its text, as it is shown."""
    return message.inner_text()


def chat_id(page: Page) -> str:
    """The chat that is open."""
    page.wait_for_url(re.compile(r"#/c/[\w-]+"))
    return re.search(r"#/c/([\w-]+)", page.url)[1]
