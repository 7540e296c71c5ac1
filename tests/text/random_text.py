"""Random Unicode strings of the kinds that tokenizers trip over."""

import random
from collections.abc import Callable

_SCRIPTS = (
    (0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530), (0x590, 0x600), (0x600, 0x700), (0x900, 0x980),
    (0xE00, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2200), (0x3040, 0x3100), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A4), (0xFB00, 0xFE10), (0xFF00, 0xFFF0), (0x1F300, 0x1F700), (0x1D400, 0x1D800), (0xE000, 0xE100),
)  # fmt: skip
_SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\ufeff\u200b"
_PIECES = (
    "don't", "I'LL", "we’ve", "'S", "e\u0301", "\u0041\u030a", "\u212b", "ﬁ", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1eb\U0001f1f7", "x = [1,2,3];\n", "    return 0\n", "\r\n\r\n", "▁", "▁▁a", "<0x0A>",
    "Ġ", "\x00", "\u0378", "٠١٢٣", "१२३", "Ⅷ",
    "½", "ǅ", "\u200d", "不客气", "</s>", "<|", "|>", "<think", "1234567890", "3.14159", "$1,000",
    "…", "——", "!!!???", "http://a.b/c?d=e&f", "_", "#", "\t\t",
)  # fmt: skip


def random_texts(count: int, seed: int, control_tokens: tuple[str, ...] = ()) -> list[str]:
    """`count` strings of up to a hundred characters or so; the same ones for the same seed."""
    draw = random.Random(seed)
    makers: list[Callable[[], str]] = [
        lambda: chr(draw.randrange(*draw.choice(_SCRIPTS))),
        lambda: chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)])),
        lambda: "".join(draw.choices(_SPACES, k=draw.randint(1, 5))),
        lambda: str(draw.randrange(10 ** draw.randint(1, 9))),
        lambda: draw.choice(_PIECES),
        lambda: " " + "".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))),
    ]
    if control_tokens:
        makers.append(lambda: draw.choice(control_tokens))
    return ["".join(draw.choice(makers)() for _ in range(draw.randint(0, 16))) for _ in range(count)]
