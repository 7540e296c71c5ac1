"""What the tokenizers of these models hold for letters, numbers and spaces, and how they compose characters.

They follow Unicode 16 in their regular expressions, 17 in what is a digit, and 9 when they compose characters (NFC); so does
the package `tokenizers`, which is the witness. Python's `unicodedata` may be older or newer: the ranges below are what
Unicode 15 to 17 added to its version 14.
"""

import re
import unicodedata
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

LETTER, NUMBER, SPACE, DIGIT = 1, 2, 4, 8  # as in native/bpe.h

# Beyond these planes and ranges nothing is a letter, a number or a space.
_SCANNED: Final = ((0, 0x20000), (0x20000, 0x33480), (0xE0000, 0xE0200))

_LETTERS_SINCE_14: Final = (
    "1C89-1C8A A7CB-A7CD A7DA-A7DC 105C0-105F3 10D4A-10D65 10D6F-10D85 10EC2-10EC4 1123F-11240 11380-11389 1138B 1138E "
    "11390-113B5 113B7 113D1 113D3 11BC0-11BE0 11F02 11F04-11F10 11F12-11F33 1342F 13441-13446 13460-143FA 16100-1611D "
    "16D40-16D6C 18CFF 1B132 1B155 1DF25-1DF2A 1E030-1E06D 1E4D0-1E4EB 1E5D0-1E5ED 1E5F0 2B739 2EBF0-2EE5D 31350-323AF"
)
_NUMBERS_SINCE_14: Final = (
    "10D40-10D49 116D0-116E3 11BF0-11BF9 11F50-11F59 16130-16139 16D70-16D79 1CCF0-1CCF9 1D2C0-1D2D3 1E4F0-1E4F9 1E5F1-1E5FA"
)
_DIGITS_SINCE_16: Final = "11DE0-11DE9 16FF4-16FF6"
_MARKS_SINCE_14: Final = (
    "897 CF3 ECE 10D69-10D6D 10EFC-10EFF 11241 113B8-113C0 113C2 113C5 113C7-113CA 113CC-113D0 113D2 113E1-113E2 11F00-11F01 "
    "11F03 11F34-11F3A 11F3E-11F42 11F5A 13440 13447-13455 1611E-1612F 1E08F 1E4EC-1E4EF 1E5EE-1E5EF"
)
# Characters of Unicode 10 to 14 that combine with others.
_COMBINING_SINCE_9: Final = (
    "7FD 898-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1ACE 1DF6-1DFA A82C 10D24-10D27 10EAB-10EAC 10F46-10F50 10F82-10F85 "
    "11070 1133B 1145E 11839-1183A 11930 11935 11938 1193D-1193E 11943 119E0 11A34 11A47 11A99 11D42 11D44-11D45 11D97 "
    "16FF0-16FF1 1E130-1E136 1E2AE 1E2EC-1E2EF"
)


@cache
def character_classes() -> NDArray[np.uint8]:
    """Bits of LETTER, NUMBER, SPACE and DIGIT for each code point [0x110000], which nobody may write to.

    Takes some ten milliseconds the first time.
    """
    classes = np.zeros(0x110000, np.uint8)
    bits = np.zeros(128, np.uint8)
    bits[[ord("L"), ord("N"), ord("Z")]] = LETTER, NUMBER | DIGIT, SPACE
    for start, stop in _SCANNED:
        categories = "".join(map(unicodedata.category, map(chr, range(start, stop))))  # two letters each
        classes[start:stop] = bits[np.frombuffer(categories.encode(), np.uint8)[::2]]
    classes[[*range(0x09, 0x0E), 0x85]] = SPACE
    for spelled, bit in ((_LETTERS_SINCE_14, LETTER), (_NUMBERS_SINCE_14, NUMBER | DIGIT), (_DIGITS_SINCE_16, DIGIT)):
        for first, last in _ranges(spelled):
            classes[first : last + 1] = bit
    classes.flags.writeable = False
    return classes


def compose(text: str) -> str:
    """The text in NFC as of Unicode 9, where younger characters combine with nothing."""
    if text.isascii():
        return text
    if unicodedata.is_normalized("NFC", text) and not _alone().search(text):
        return text
    return "".join([unicodedata.normalize("NFC", part) for part in _alone().split(text)])


@cache
def _alone() -> re.Pattern[str]:
    """The characters that `compose` leaves as they are, each a part of its own."""
    ranges = _ranges(f"{_COMBINING_SINCE_9} {_MARKS_SINCE_14} {_LETTERS_SINCE_14}")
    return re.compile("([" + "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + "])")


def _ranges(spelled: str) -> list[tuple[int, int]]:
    """First and last code points of `A-B C ...`, in hexadecimal."""
    pairs = [part.partition("-") for part in spelled.split()]
    return [(int(first, 16), int(last or first, 16)) for first, _, last in pairs]
