"""What reading a document gives: plain data, which travels from the process that reads to the one that asked."""

import msgspec


class Reading(msgspec.Struct, kw_only=True, frozen=True):
    """What a document says, and what was left out; or why it cannot be read. `is_cut` where it says more."""

    text: str = ""
    notes: tuple[str, ...] = ()
    is_cut: bool = False
    refusal: str | None = None
