"""docs/api.md lists every route, and every field with what becomes of it."""

import re
from pathlib import Path

import pytest

from samovar.serving.app import DIALECTS
from samovar.serving.ollama_options import UNSUPPORTED_OPTIONS, OptionFields
from samovar.serving.openapi import BODIES, describe

TEXT = (Path(__file__).parents[2] / "docs/api.md").read_text()
ROUTES = [(method, path, handler) for dialect in DIALECTS for method, path, handler in dialect.routes]


def section(route):
    """The rows of the table below the title that names a route: field to text."""
    (found,) = [part for part in re.split(r"^### ", TEXT, flags=re.M)[1:] if f"`{route}`" in part.split("\n")[0]]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", found, flags=re.M))


def check(rows, kind, unsupported):
    assert set(rows) == {*kind.__struct_encode_fields__, *unsupported}
    for name, refusal in unsupported.items():
        assert rows[name].replace("\\|", "|").startswith(f"Refused: {refusal.reason}"), name


@pytest.mark.parametrize(
    ("route", "handler"), [(f"{method} {path}", handler) for method, path, handler in ROUTES if handler in BODIES]
)
def test_every_field_of_a_route_is_listed_with_what_becomes_of_it(route, handler):
    check(section(route), *BODIES[handler])


def test_every_option_of_ollama_is_listed():
    check(section("options"), OptionFields, UNSUPPORTED_OPTIONS)


def test_every_route_is_listed():
    assert not [f"{method} {path}" for method, path, _ in ROUTES if f"`{method} {path}`" not in TEXT]


def test_every_route_that_reads_fields_is_described_for_openapi():
    document = describe([dialect.routes for dialect in DIALECTS])
    for method, path, handler in ROUTES:
        operation = document["paths"][re.sub(r":\w+\}", "}", path)][method.lower()]
        assert operation["summary"]
        assert ("requestBody" in operation) == (handler in BODIES or (method, path) == ("POST", "/v1/files"))
