"""How soon the app is there, how much is loaded for it, and whether it holds still."""

from playwright.sync_api import expect

from tests.web.steps import STORY, ask, box, is_over, leave, open_chat, says

MAX_FIRST_VIEW_BYTES = 300_000


def test_the_first_view_is_small_compressed_and_soon_there(visit, server, note_figure):
    page = visit("about:blank", allows=("request to another server",))
    seen = []
    page.on("response", lambda response: seen.append(response))
    page.goto(server.url)
    expect(box(page)).to_be_visible()
    ready_ms = page.evaluate("performance.now()")
    page.wait_for_timeout(1500)
    done = [response for response in seen if not response.request.url.endswith("/events")]
    sizes = {response.url: response.request.sizes()["responseBodySize"] for response in done}
    paints = page.evaluate("performance.getEntriesByType('paint').map(p => [p.name, p.startTime])")
    note_figure("first view: bytes that were sent", sum(sizes.values()))
    note_figure("first view: requests", len(sizes))
    note_figure("first view: milliseconds to the first paint with content", round(dict(paints)["first-contentful-paint"]))
    note_figure("first view: milliseconds until one can write", round(ready_ms))
    assert sum(sizes.values()) < MAX_FIRST_VIEW_BYTES, sizes
    for response in done:
        if response.url.endswith((".js", ".css")) and sizes[response.url] > 2000:
            assert response.header_value("content-encoding") in ("br", "gzip"), response.url
            assert "immutable" in response.header_value("cache-control"), response.url
    assert not any("katex" in url.lower() or "mermaid" in url.lower() for url in sizes)


def test_nothing_on_the_page_shifts_while_an_answer_streams(page, note_figure):
    open_chat(page)
    is_over(ask(page, "Hello."))
    page.wait_for_timeout(4000)  # the chat has got its title, and what follows from the first answer
    page.evaluate(
        """() => {
            window.shifts = [];
            new PerformanceObserver(list => {
                for (const e of list.getEntries()) window.shifts.push([e.value, e.hadRecentInput,
                    e.sources.map(s => [s.node?.nodeName, s.node?.className, s.previousRect.y, s.currentRect.y])]);
            }).observe({ type: "layout-shift" });
        }"""
    )
    answer = ask(page, STORY)
    page.wait_for_timeout(12_000)
    assert len(says(answer)) > 300
    shifts = page.evaluate("window.shifts")
    total = sum(value for value, is_caused, _ in shifts if not is_caused)
    note_figure("layout shift while an answer streams", total)
    assert total == 0, shifts
    leave(page)


def test_a_long_answer_stays_in_view_unless_the_person_scrolls_away(page):
    open_chat(page)
    ask(page, STORY)
    is_at_end = """() => {
        const list = document.querySelector("[data-messages]");
        return list.scrollHeight > list.clientHeight + 300 && list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    }"""
    page.wait_for_function(is_at_end, timeout=60_000)
    page.mouse.move(640, 300)
    page.mouse.wheel(0, -250)
    page.wait_for_timeout(300)
    top = page.evaluate("document.querySelector('[data-messages]').scrollTop")
    page.wait_for_timeout(1500)
    assert abs(page.evaluate("document.querySelector('[data-messages]').scrollTop") - top) < 5
    leave(page)
