"""How large the texts and lists are that operations of a template would make, reckoned before they are made."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from jinja2.exceptions import SecurityError

TEXT_LIMIT: Final = 16 * 2**20  # characters of one text
TOTAL_LIMIT: Final = 256 * 2**20  # characters of all texts that one rendering makes
_NUMBER_LIMIT: Final = 2**20  # for repeats, paddings, exponents, and the bits of a number
_ITEM_SIZE: Final = 16  # an item of a list weighs as much as so many characters
_MAX_DEPTH: Final = 80  # messages and tools are read to 64 levels
_HUGE_FIELD: Final = re.compile(r"\d{6}|\*")  # a width, or one that is given as an argument
_NESTED_FIELD: Final = re.compile(r"\{[^{}]*:[^{}]*\{")  # a width that is given as an argument, in str.format
_PADDING_FILTERS: Final = frozenset(("batch", "center", "indent", "pprint", "slice", "tojson", "truncate", "wordwrap"))
# Filters that make no text of what they are given.
_PLAIN_FILTERS: Final = frozenset((
    "abs", "attr", "batch", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last", "length",
    "list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "slice", "sort",
    "unique",
))  # fmt: skip


def check_size(size: int) -> None:
    """Raise where a text of so many characters is too large."""
    if size > TEXT_LIMIT:
        raise SecurityError(f"it makes a text larger than {TEXT_LIMIT} characters")


def check_number(value: object) -> None:
    """Raise where a text is to be repeated or padded, or a number raised, by a huge number."""
    if isinstance(value, int) and abs(value) > _NUMBER_LIMIT:
        raise SecurityError(f"it repeats, pads or raises by {value if value.bit_length() < 100 else 'a huge number'}")


def weight(value: object) -> int:
    """What a result counts: characters, or items at their weight without what is in them."""
    if isinstance(value, (str, bytes)):
        return len(value)
    return len(value) * _ITEM_SIZE if isinstance(value, (list, tuple, dict)) else 0


def check_printed(*values: object) -> int:
    """About the characters that values have in print, which are checked while they are counted."""
    size, left = 0, [iter(values)]
    while left:
        for value in left[-1]:
            if isinstance(value, (str, bytes)):
                size += len(value)
            elif isinstance(value, Mapping):
                left.append(item for pair in list(value.items()) for item in pair)
            elif isinstance(value, (list, tuple)):
                left.append(iter(value))
            size += _ITEM_SIZE if isinstance(value, (Mapping, list, tuple)) else 2
            check_size(size)
            if len(left) > _MAX_DEPTH:
                raise SecurityError("it nests data too deep")
            if isinstance(value, (Mapping, list, tuple)):
                break
        else:
            left.pop()
    return size


def check_binop(operator: str, left: object, right: object) -> None:
    """Raise where the result of an operator would be huge."""
    if operator == "%" and isinstance(left, str):
        check_percent_form(left, right)
    elif operator == "+" and weight(left) and weight(right):
        check_size(weight(left) + weight(right))
    elif operator == "**":
        check_number(left)
        check_number(right)
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(times, int):
                check_number(times)
                check_size(weight(sequence) * times)
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _NUMBER_LIMIT:
            raise SecurityError("it multiplies to a huge number")


def check_percent_form(form: str, values: object) -> None:
    """Raise where `form % values` would be huge."""
    if _HUGE_FIELD.search(form):
        raise SecurityError(f"it formats {form[:40]!r}")
    check_size(len(form) + form.count("%") * check_printed(values))


def check_brace_form(form: str, *values: object) -> None:
    """Raise where `form.format(...)` would be huge."""
    if _HUGE_FIELD.search(form):
        raise SecurityError(f"it formats {form[:40]!r}")
    if _NESTED_FIELD.search(form):
        for value in values:
            check_number(value)
            if isinstance(value, str) and _HUGE_FIELD.search(value):
                raise SecurityError(f"it formats by {value[:40]!r}")
    check_size(len(form) + form.count("{") * check_printed(*values))


def check_method(text: str | bytes, name: str, args: Sequence[object]) -> None:
    """Raise where a method of a text would make a huge one."""
    for value in args:
        check_number(value)
    size = len(text)
    if name == "replace" and len(args) > 1:
        check_replacement(text, args[0], args[1])
    elif name == "join" and args and isinstance(args[0], (list, tuple, dict)):
        check_size(check_printed(*args[0]) + size * len(args[0]))
    elif name == "expandtabs":
        tab = args[0] if args and isinstance(args[0], int) else 8
        check_size(size + (text.count("\t") if isinstance(text, str) else text.count(b"\t")) * tab)
    elif name == "translate" and args and isinstance(args[0], Mapping):
        check_size(size * max((len(v) for v in args[0].values() if isinstance(v, str)), default=1))


def check_replacement(text: str | bytes, old: object, new: object) -> None:
    """Raise where the replacing of all `old` by `new` makes a huge text."""
    kind = str if isinstance(text, str) else bytes
    if isinstance(old, kind) and isinstance(new, kind):
        check_size(len(text) + text.count(old) * (len(new) - len(old)))  # type: ignore[arg-type]


def check_filter(name: str, value: object, args: Sequence[object]) -> None:
    """Raise where a filter would make a huge text of `value`."""
    if name in _PADDING_FILTERS:
        for given in args:
            check_number(given)
    if name in _PLAIN_FILTERS:
        return
    size = check_printed(value)
    longest = max((len(given) for given in args if isinstance(given, str)), default=0)
    if name == "replace" and len(args) > 1:
        check_replacement(str(value), str(args[0]), str(args[1]))
    elif name == "format":
        check_percent_form(str(value), args)
    elif name == "join" and isinstance(value, (list, tuple, dict, str)):
        check_size(size + len(value) * longest)
    elif name == "indent":
        width = max((given for given in args if isinstance(given, int)), default=4)
        check_size(size + (str(value).count("\n") + 1) * max(longest, width))
    elif name in ("urlize", "wordwrap"):
        check_size(size * max(longest, 1))


def bounded_text(pieces: Iterable[str]) -> str:
    """Pieces put together, unless they make a huge text."""
    return "".join(_bounded(pieces))


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece)
        check_size(size)
        yield piece


def tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as the templates of Hugging Face expect it: Jinja's own filter would escape for HTML."""
    if indent is None and separators is None:
        return json.dumps(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys)
    # Piece by piece: the filling may weigh more than the data.
    if isinstance(indent, str):
        check_number(len(indent))
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return bounded_text(encoder.iterencode(value))
