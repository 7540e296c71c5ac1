"""Stop strings in a stream: what might become one is held back until it is decided."""

from collections.abc import Sequence


class StopStrings:
    """Feed text piece by piece; what comes out never holds a stop string, nor any part of one that ended the text."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found: str | None = None

    @property
    def is_hit(self) -> bool:
        """A stop string was seen: `found`."""
        return self.found is not None

    def push(self, text: str) -> str:
        """The text that is safe to show. After a hit, nothing more."""
        if self.is_hit:
            return ""
        text = self._held + text
        found = [(at, stop) for stop in self._strings if (at := text.find(stop)) >= 0]
        if found:
            at, self.found = min(found)
            self._held = ""
            return text[:at]
        n_held = max((_overlap(text, stop) for stop in self._strings), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
