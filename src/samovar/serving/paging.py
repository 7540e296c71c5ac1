"""Lists in pages, as OpenAI has them: `limit`, `after` an id, `order`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from samovar.errors import BadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list is asked for; `more` holds the other parameters that the route takes."""

    limit: int
    after: str | None
    is_oldest_first: bool
    more: Mapping[str, str]


def read_query(request: Request, known: Sequence[str]) -> dict[str, str]:
    """The parameters of a URL. Raises BadRequest for one that is not known here, or given twice."""
    given = dict[str, str]()
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise BadRequest(f"{name} is no parameter that is known here; these are: {', '.join(known) or 'none'}", param=name)
        if name in given:
            raise BadRequest(f"{name} is given twice; expected it once", param=name)
        given[name] = value
    return given


def read_page(request: Request, *, default: int, most: int, more: Sequence[str] = (), has_order: bool = True) -> Page:
    """The page that a URL asks for. Raises BadRequest."""
    given = read_query(request, ["limit", "after", *(["order"] if has_order else []), *more])
    limit = read_whole("limit", given.pop("limit", str(default)), 1, most)
    order = given.pop("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest(f"order is {order!r}; expected asc or desc", param="order")
    return Page(limit=limit, after=given.pop("after", None), is_oldest_first=order == "asc", more=given)


def read_whole(name: str, given: str, low: int, high: int) -> int:
    """A whole number in a URL. Raises BadRequest."""
    if not (given.isascii() and given.isdigit() and len(given) < 16 and low <= int(given) <= high):
        raise BadRequest(f"{name} is {given!r}; expected a whole number from {low} to {high}", param=name)
    return int(given)


def page_body(values: Sequence[Mapping[str, Any]], limit: int) -> dict[str, object]:
    """A page of `limit` values, out of those and, where there are more, at least one further."""
    shown = values[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(values) > limit,
    }
