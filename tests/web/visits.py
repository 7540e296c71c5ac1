"""Pages of a browser, and what they did that they should not have."""

import re
from pathlib import Path
from urllib.parse import urlsplit


class Visits:
    """The pages that a test has open. The first one is photographed at the end of a test that fails."""

    def __init__(self, browser, photograph: Path) -> None:
        self._browser, self._photograph = browser, photograph
        self._contexts, self._pages, self._troubles, self._allowed = [], [], [], []

    def open(self, url: str, *, allows: tuple[str, ...] = (), beside=None, **options):
        """A page at `url`, in a browser that was never there, or in another tab `beside` a page."""
        context = self._new_context(options) if beside is None else beside.context
        page = context.new_page()
        page.set_default_timeout(20_000)
        self._allowed += allows
        self._pages.append(page)
        self._watch(page, urlsplit(url).netloc)
        page.goto(url)
        return page

    def close(self, *, has_failed: bool) -> None:
        """Close all. Raises AssertionError for what the pages should not have done, unless the test has failed anyway."""
        if has_failed and self._pages:
            self._photograph.parent.mkdir(parents=True, exist_ok=True)
            self._pages[0].screenshot(path=self._photograph)
        for context in self._contexts:
            context.close()
        troubles = [line for line in self._troubles if not any(re.search(allowed, line) for allowed in self._allowed)]
        if has_failed:
            print("\n".join(["the pages said:", *troubles]))
        else:
            assert troubles == []

    def _new_context(self, options):
        context = self._browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-US"} | options)
        self._contexts.append(context)
        return context

    def _watch(self, page, own_netloc: str) -> None:
        def see_request(request) -> None:
            parts = urlsplit(request.url)
            if parts.scheme not in ("data", "blob") and parts.netloc != own_netloc:
                self._troubles.append(f"request to another server: {request.url}")

        def see_console(message) -> None:
            if message.type == "error":
                self._troubles.append(f"console: {message.text} ({message.location.get('url', '')})")

        def see_dialog(dialog) -> None:
            self._troubles.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("request", see_request)
        page.on("console", see_console)
        page.on("dialog", see_dialog)
        page.on("pageerror", lambda error: self._troubles.append(f"error: {error}"))
