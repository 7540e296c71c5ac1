"""Growing answers and the feed, without a server around them."""

import asyncio
import random

import msgspec

from samovar.app.feed import Feed
from samovar.app.live import Live
from samovar.app.shapes import Message
from samovar.text.output_parser import Delta
from tests.app.app_client import n_utf16

EMPTY = Message(
    id="m", chat_id="c", parent_id=None, role="assistant", content="", thoughts=None, tool_calls=[], tool_call_id=None,
    files=[], status="writing", error=None, model=None, stats=None, settings=None, is_json_valid=None,
    siblings=["m"], created_ms=0,
)  # fmt: skip


async def shown(live):
    """What a page has at the end that appends each piece at its place."""
    content = thoughts = ""
    calls = []
    async for event in live.follow():
        if isinstance(event, Message):
            content, thoughts, calls = event.content, event.thoughts or "", event.tool_calls
        else:
            assert (event.at_content, event.at_thoughts) == (n_utf16(content), n_utf16(thoughts))
            content, thoughts = content + event.content, thoughts + event.thoughts
            calls = event.tool_calls if event.tool_calls is not None else calls
    return content, thoughts, [(call.name, call.arguments) for call in calls]


def test_pages_that_join_at_any_time_have_the_same_in_the_end():
    draws = random.Random(3)

    async def run():
        live, pages = Live(EMPTY), []
        for i in range(300):
            if draws.random() < 0.1:
                pages.append(asyncio.create_task(shown(live)))
            kind = "reasoning" if i < 100 else "content"
            live.push(Delta(kind, draws.choice(["a", "é", "🙂", "東京", "\u0301", " "])))
            if draws.random() < 0.5:
                await asyncio.sleep(0)
        live.push(Delta("tool_name", "weather", 0))
        for piece in ('{"city"', ': "Rom"}'):
            await asyncio.sleep(0)
            live.push(Delta("tool_arguments", piece, 0))
        message = live.message
        live.end(message)
        late = await shown(live)
        return message, [late, *await asyncio.gather(*pages)]

    message, all_shown = asyncio.run(run())
    assert len(all_shown) > 20
    assert set(map(str, all_shown)) == {str((message.content, message.thoughts, [("weather", '{"city": "Rom"}')]))}


def test_a_continued_message_begins_with_what_it_had():

    live = Live(msgspec.structs.replace(EMPTY, content="The 🙂", thoughts="hm"))
    live.push(Delta("content", " end"))
    assert (live.message.content, live.message.thoughts) == ("The 🙂 end", "hm")


def test_a_page_that_reads_too_slowly_is_cut_off_and_others_are_not():
    async def run():
        feed = Feed()
        slow, quick = feed.follow("u", lambda: False), feed.follow("u", lambda: False)
        await anext(slow)
        await anext(quick)
        n_quick = 0
        for i in range(3000):
            feed.publish("u", "chat", {"n": i})
            n_quick += b"chat" in await anext(quick)
        feed.publish("other", "chat", {})
        n_slow = sum([1 async for _ in slow])
        await quick.aclose()
        return n_slow, n_quick, feed._pages

    n_slow, n_quick, pages = asyncio.run(run())
    assert (n_slow, n_quick) == (1000, 3000)
    assert pages == {}, "nothing is kept of pages that are gone"
