"""A conversation as one text, with marks on what must not be read as control tokens."""

from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """The text a chat template made. `plain_spans` are character ranges, in order and apart, where the text of a control
    token came from a message: it is encoded as the ordinary text it is."""

    text: str
    plain_spans: tuple[Span, ...] = ()
