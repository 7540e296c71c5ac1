"""The app in light, dark, on a phone and from right to left: nothing that axe finds fault with, and pictures of it.

The pictures are in build/screenshots/, for people to look at.
"""

import pytest
from playwright.sync_api import expect

from tests.packages import missing
from tests.web.conftest import ROOT, SCREENSHOTS
from tests.web.seeds import planted
from tests.web.steps import MESSAGES

TALK = [
    "How does a samovar keep its water hot?",
    "A samovar has a **pipe** through its middle, in which coals glow. The heat that $m$ kilograms of water take is\n\n"
    "$$Q = m\\,c\\,\\Delta T$$\n\nwith $c = 4186\\,\\mathrm{J/(kg\\,K)}$.\n\n"
    "| part | use |\n|---|---|\n| pipe | holds the coals |\n| tap | pours the water |\n| crown | carries the teapot |\n",
    "How long does it take? Write it in Python.",
    "```python\ndef seconds_to_boil(litres: float, watts: float = 1500) -> float:\n"
    '    """From 20 degrees, without losses."""\n    return litres * 4186 * 80 / watts\n\n\nprint(seconds_to_boil(3))\n```\n\n'
    "Three litres take about **eleven minutes**:\n\n1. light the coals,\n2. wait,\n3. pour `tea`.\n\n> Tea is drunk hot.\n",
]
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True,
              "device_scale_factor": 2},
    "phone-dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True,
                   "device_scale_factor": 2},
    "right-to-left": {"color_scheme": "light", "locale": "ar"},
}  # fmt: skip
# How the element with the focus, and what it is framed by, tell that it has it.
RING = """(e => [e, e.closest(":is(form, .box, .composer):focus-within")].filter(Boolean).map(getComputedStyle)
    .some(style => style.outlineStyle !== "none" || style.boxShadow !== "none"))(document.activeElement)"""
VIEWS = {"chat": None, "start": "/", "settings": "/#/settings", "dashboard": "/#/dashboard", "admin": "/#/admin"}


@pytest.fixture(scope="module")
def axe():
    """The source of axe-core."""
    path = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        missing(f"{path} is not there; make web fetches it")
    return path.read_text()


@pytest.fixture(scope="module")
def talk(server):
    """The address of a chat with a bit of everything."""
    return planted(server, "How a samovar works", TALK)


def violations(page, axe):
    """What axe finds, with the elements."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {node['html'][:200]} {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_fault(visit, server, talk, axe, look, view):
    page = visit(server.url + VIEWS[view] if VIEWS[view] else talk, **LOOKS[look])
    if view == "chat":
        expect(page.locator(MESSAGES)).to_have_count(4)
        expect(page.locator(".katex").first).to_be_attached()
        expect(page.locator("pre [class*=hljs-]").first).to_be_attached()
    page.wait_for_timeout(700)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{view}-{look}.png")
    assert violations(page, axe) == []
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0  # nothing reaches beyond the page's edge
    if look == "right-to-left":
        assert page.evaluate("document.documentElement.dir") == "rtl"
        assert page.evaluate("document.documentElement.lang").startswith("ar")


@pytest.mark.parametrize("look", ["light", "phone"])
def test_axe_finds_no_fault_with_what_opens_over_the_page(visit, talk, axe, look):
    page = visit(talk, **LOOKS[look])
    expect(page.locator(MESSAGES)).to_have_count(4)
    page.get_by_role("heading", level=1).first.click()  # in a field, ? is a letter
    for name, keys in {"palette": "Control+k", "shortcuts": "?"}.items():
        page.keyboard.press(keys)
        expect(page.get_by_role("dialog")).to_be_visible()
        page.wait_for_timeout(300)
        page.screenshot(path=SCREENSHOTS / f"{name}-{look}.png")
        assert violations(page, axe) == []
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_app_can_be_used_without_a_mouse(visit, server):
    page = visit(server.url)
    focus = "(e => e.getAttribute('aria-label') || e.textContent || e.tagName)(document.activeElement)"
    reached = []
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focus).strip())
        ring = page.evaluate(RING)
        assert ring or page.evaluate("document.activeElement === document.body"), f"the focus on {reached[-1]} cannot be seen"
    assert len(set(reached)) > 5
