"""What happens to a user's chats, told to all pages that the user has open."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from samovar.serving.replies import sse

_MAX_BEHIND: Final = 1_000
_LOOK_S: Final = 1.0


class Feed:
    """The open pages by user. Belongs to the server's event loop."""

    def __init__(self) -> None:
        self._pages = dict[str, set[asyncio.Queue[bytes | None]]]()

    def publish(self, user_id: str, event: str, value: object) -> None:
        """Tell a user's pages. One that reads too slowly is cut off, and asks anew when it is back."""
        frame: bytes | None = None
        for queue in self._pages.get(user_id, ()):
            frame = frame or sse(value, event)
            if queue.qsize() < _MAX_BEHIND:
                queue.put_nowait(frame)
            elif queue.qsize() == _MAX_BEHIND:
                queue.put_nowait(None)

    def cut(self, user_id: str) -> None:
        """End what a user's pages follow; they ask anew, if they may."""
        for queue in self._pages.get(user_id, ()):
            queue.put_nowait(None)

    async def follow(self, user_id: str, is_ending: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """Events for one page, until the server wants to end, which must not wait for pages that nobody closes."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._pages.setdefault(user_id, set()).add(queue)
        try:
            yield sse({}, "hello")
            while not is_ending():
                try:
                    frame = await asyncio.wait_for(queue.get(), _LOOK_S)
                except TimeoutError:
                    continue
                if frame is None:
                    return
                yield frame
        finally:
            self._pages[user_id].discard(queue)
            if not self._pages[user_id]:
                del self._pages[user_id]
