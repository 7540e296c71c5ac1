"""The room chat templates run in: Jinja's immutable sandbox with the helpers that templates of Hugging Face expect.

Templates come with models, from strangers. They see plain JSON data only, and work and output are bounded.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

TIME_LIMIT_S: Final = 10.0
OUTPUT_LIMIT: Final = 64 * 2**20  # characters
_NUMBER_LIMIT: Final = 2**20  # for repeats, paddings and exponents
_HUGE_FIELD: Final = re.compile(r"\d{6}|\*")  # a width, or one that is given as an argument
_BUDGET: Final = "_samovar_budget"

# What a template can go wrong with, other than by Jinja's own errors: it calls methods of str, list and dict at will.
TEMPLATE_FAILURES: Final = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, MemoryError,
)  # fmt: skip


@dataclass(slots=True)
class _Budget:
    """What is left of the time for one rendering."""

    deadline: float = field(default_factory=lambda: time.monotonic() + TIME_LIMIT_S)

    def check(self) -> None:
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it runs for more than {TIME_LIMIT_S:g} s")


class _Generation(Extension):
    """`{% generation %}`, which marks what an assistant wrote for training. Its content is printed like any other."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, since variables set inside it have to stay inside.
        return nodes.CallBlock(self.call_method("_print"), [], [], body).set_lineno(line)

    @staticmethod
    def _print(caller: Macro) -> str:
        return str(caller())


class _DictMaker:
    """`dict` for templates: makes dicts, and has nothing else of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As dict.fromkeys."""
        return dict.fromkeys(*args)


class _TemplateNamespace(Namespace):
    """`namespace` for templates, without names that begin with an underscore."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        attrs = dict(*args, **kwargs)
        for name in attrs:
            _check_name(name)
        super().__init__(attrs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Compiles templates so that each round of a loop and each call looks at the clock."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["dict"] = _DictMaker()
        self.globals["namespace"] = _TemplateNamespace

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            look = nodes.Call(nodes.EnvironmentAttribute("look_at_clock"), [], [], None, None)
            loop.body.insert(0, nodes.ExprStmt(look).set_lineno(loop.lineno))
        return tree

    @staticmethod
    def look_at_clock() -> None:
        """Put into each loop: being called through `call` is all it is for."""

    def call(self, context: Context, obj: object, *args: object, **kwargs: object) -> object:
        """Call on behalf of a template, unless time is over or a text method is to pad a text hugely."""
        budget = context.parent.get(_BUDGET)
        if isinstance(budget, _Budget):
            budget.check()
        if obj is self.look_at_clock:
            return None
        text = getattr(obj, "__self__", None)
        if isinstance(text, str):
            for value in (*args, *kwargs.values()):
                _check_number(value)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Multiply, raise or format, unless the result is huge."""
        if operator == "%" and isinstance(left, str):
            _check_form(left)
        elif operator == "**" or isinstance(left, (str, list, tuple)) or isinstance(right, (str, list, tuple)):
            _check_number(left)
            _check_number(right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: object) -> Callable[..., str] | None:
        """Keep text methods that format within bounds, besides keeping them from attributes."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_form(str(getattr(value, "__self__", "")))
        return wrapped

    def unsafe_undefined(self, obj: object, attribute: str) -> Undefined:
        """Refuse access to what is no data at once, where Jinja would print nothing."""
        raise SecurityError(f"it reads the attribute {attribute!r} of a {type(obj).__name__}")

    def render(self, template: jinja2.Template, variables: Mapping[str, object], now: datetime) -> str:
        """The text of a template. Raises one of TEMPLATE_FAILURES."""
        given: dict[str, object] = {"strftime_now": _clock(now), **variables, _BUDGET: _Budget()}
        pieces: list[str] = []
        size = 0
        for piece in template.generate(given):
            size += len(piece)
            if size > OUTPUT_LIMIT:
                raise SecurityError(f"it prints more than {OUTPUT_LIMIT} characters")
            pieces.append(piece)
        return "".join(pieces)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it sets {name!r} on a namespace")


def _check_number(value: object) -> None:
    if isinstance(value, int) and abs(value) > _NUMBER_LIMIT:
        raise SecurityError(f"it repeats, pads or raises by {value}")


def _check_form(form: str) -> None:
    if _HUGE_FIELD.search(form):
        raise SecurityError(f"it formats {form[:40]!r}")


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as the templates of Hugging Face expect it: Jinja's own filter would escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _clock(now: datetime) -> Callable[[str], str]:
    """`strftime_now`. Time stands still during a rendering."""
    return lambda form: now.strftime(form)
