"""What a model or a person writes never runs as a script, reaches for another server, or leaves its message."""

import socket
import threading

import pytest
from playwright.sync_api import expect

from tests.web.seeds import planted
from tests.web.steps import MESSAGES

RUNS = "window.top.hasRun=true;document.title='hacked'"
SCRIPTS = [
    f"<script>{RUNS}</script>",
    f"<img src=x onerror=\"{RUNS}\">",
    f"<svg onload=\"{RUNS}\"><animate onbegin=\"{RUNS}\" attributeName=x dur=1s></svg>",
    f"<details open ontoggle=\"{RUNS}\"><summary>x</summary></details>",
    f"<iframe srcdoc=\"<script>{RUNS}</script>\"></iframe>",
    f"<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror={RUNS}&gt;\">",
    f"[click](javascript:{RUNS}) [click](JaVaScRiPt&colon;{RUNS}) [click](data:text/html,<script>{RUNS}</script>)",
    f"![x](x \"onerror={RUNS}\") ![\" onerror=\"{RUNS}](x)",
    f"<javascript:{RUNS}>",
    f"```js\"onmouseover=\"{RUNS}\n</code></pre><script>{RUNS}</script>\n```",
    f"```html\n<script>{RUNS}</script>\n```",
    f"$\\href{{javascript:{RUNS}}}{{x}}$ $$\\htmlData{{x=1}}{{\\html@mathml{{<script>{RUNS}</script>}}{{}}}}$$",
    f"$$\\def\\a{{\\a\\a}}\\a$$ $$\\includegraphics{{javascript:{RUNS}}}$$",
    f"```mermaid\ngraph TD\n A[\"<img src=x onerror={RUNS}>\"] --> B\n click A \"javascript:{RUNS}\"\n```",
    f"```mermaid\n%%{{init: {{\"securityLevel\": \"loose\"}}}}%%\ngraph TD\n A[\"<svg onload={RUNS}>\"]\n```",
    f"<form action=\"javascript:{RUNS}\"><button id=send>Send</button></form>",
    f"<a href=\"#\" onclick=\"{RUNS}\" style=\"position:fixed;inset:0;z-index:99999\">all of the page</a>",
    f"<meta http-equiv=refresh content=\"0;javascript:{RUNS}\"><base href=\"javascript:{RUNS}//\">",
    f"| a |\n|---|\n| <img src=x onerror={RUNS}> |",
]  # fmt: skip


def calls(address):
    """Texts that would make a page ask another server."""
    return [
        f"![x]({address}/picture.png)",
        f"<img src=\"{address}/tag.png\" srcset=\"{address}/set.png 2x\">",
        f"<link rel=stylesheet href=\"{address}/a.css\">",
        f"<style>@import url({address}/b.css);body{{background:url({address}/c)}}</style>",
        f"<div style=\"background-image:url({address}/style.png)\">x</div>",
        f"<video poster=\"{address}/poster.png\" src=\"{address}/video.mp4\" autoplay></video>",
        f"<audio src=\"{address}/a.ogg\"></audio>",
        f"<iframe src=\"{address}/frame\"></iframe><object data=\"{address}/object\"></object><embed src=\"{address}/embed\">",
        f"$\\includegraphics{{{address}/katex.png}}$",
        f"```mermaid\ngraph TD\n A@{{ img: \"{address}/mermaid.png\", label: \"x\" }} --> B\n```",
        f"```mermaid\ngraph TD\n A[\"<img src='{address}/label.png'>\"] --> B\n```",
        f"<link rel=prefetch href=\"{address}/prefetch\"><link rel=dns-prefetch href=\"//other.example\">",
        f"[ref]: {address}/ref.png\n\n![y][ref]",
    ]  # fmt: skip


@pytest.fixture
def listener():
    """Another server of this machine, and the connections that it got."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        got, is_over = [], threading.Event()

        def listen():
            while not is_over.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                connection.settimeout(2)
                got.append(connection.recv(200))
                connection.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", got
        is_over.set()
        thread.join()


def shown(visit, server, title, texts):
    """A page with a chat that consists of these texts, said by both sides; all of it has been in view."""
    said = [text for each in texts for text in (each, each)]
    page = visit(planted(server, title, said), allows=(r"^console: .*[Kk]a[Tt]e[Xx]",))
    expect(page.locator(MESSAGES).last).to_be_visible()
    for message in page.locator(MESSAGES).all():
        message.scroll_into_view_if_needed()
        page.wait_for_timeout(50)
    page.wait_for_timeout(2000)  # parts that are loaded when needed have come
    return page


def test_no_text_runs_as_a_script(visit, server):
    page = shown(visit, server, "Scripts <b onclick=x>", SCRIPTS)
    assert page.evaluate("window.hasRun") is None
    assert "hacked" not in page.title()
    assert page.locator(f"{MESSAGES} :is(script, iframe, object, embed, form, base, meta, link)").count() == 0
    handlers = """nodes => nodes.flatMap(node => [...node.attributes]).filter(a => /^on/i.test(a.name)
        || /^\\s*(javascript|vbscript|data:text)/i.test(a.value)).map(a => `${a.name}=${a.value}`)"""
    assert page.locator(f"{MESSAGES} *").evaluate_all(handlers) == []
    cover = "nodes => nodes.filter(n => getComputedStyle(n).position === 'fixed').map(n => n.outerHTML)"
    assert page.locator(f"{MESSAGES} .markdown *, {MESSAGES} p *").evaluate_all(cover) == []


def test_clicks_on_links_of_a_text_run_no_script_and_keep_the_app_open(visit, server):
    page = shown(visit, server, "Links", SCRIPTS[6:9])
    for link in page.locator(f"{MESSAGES} a").all():
        link.click(timeout=2000, no_wait_after=True)
    assert page.evaluate("window.hasRun") is None
    assert page.url.startswith(server.url)
    expect(page.locator(MESSAGES).last).to_be_visible()


def test_no_text_makes_the_page_ask_another_server(visit, server, listener):
    address, got = listener
    page = shown(visit, server, "Calls", calls(address))
    assert got == []
    assert page.locator(f"{MESSAGES} img[src^=http]").count() == 0


def test_links_to_other_servers_open_apart_and_tell_them_nothing(visit, server):
    page = shown(visit, server, "Outside", ["[a link](https://example.org/page)"])
    for link in page.locator(f"{MESSAGES} a[href='https://example.org/page']").all():
        assert link.get_attribute("target") == "_blank"
        assert {"noopener", "noreferrer"} <= set((link.get_attribute("rel") or "").split())


def test_the_page_says_what_it_may_load(server):
    reply = server.client.get("/", headers={"Accept": "text/html"})
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";") if part.strip())
    assert policy["default-src"] == "'self'"
    assert policy["script-src"] == "'self'"
    assert policy["object-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
