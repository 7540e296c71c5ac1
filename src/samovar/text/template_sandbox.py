"""The room chat templates run in: Jinja's immutable sandbox with the helpers that templates of Hugging Face expect.

Templates come with models, from strangers. They see plain JSON data only, and work and output are bounded.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context

from samovar.text import template_sizes as sizes

TIME_LIMIT_S: Final = 10.0
OUTPUT_LIMIT: Final = 64 * 2**20  # characters
_BUDGET: Final = "_samovar_budget"

# What a template can go wrong with, other than by Jinja's own errors: it calls methods of str, list and dict at will.
TEMPLATE_FAILURES: Final = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, MemoryError,
)  # fmt: skip


@dataclass(slots=True)
class _Budget:
    """What is left of the time for one rendering, and what it has made."""

    deadline: float = field(default_factory=lambda: time.monotonic() + TIME_LIMIT_S)
    n_made: int = 0

    def check(self) -> None:
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it runs for more than {TIME_LIMIT_S:g} s")

    def count(self, made: object) -> None:
        """Take note of a text or list that an operation has made."""
        size = sizes.weight(made)
        sizes.check_size(size)
        self.n_made += size
        if self.n_made > sizes.TOTAL_LIMIT:
            raise SecurityError(f"it makes texts of more than {sizes.TOTAL_LIMIT} characters in all")


class _CheckingGenerator(CodeGenerator):
    """Lets the environment join texts: those around `~`, and what blocks and macros print."""

    def write_commons(self) -> None:
        super().write_commons()
        self.writeline("concat = environment.joiner(context)")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_values(context, (")
        for arg in node.nodes:
            self.visit(arg, frame)
            self.write(", ")
        self.write("))")


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

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _CheckingGenerator
    concat = staticmethod(sizes.bounded_text)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_checked_print)
        self.filters["tojson"] = sizes.tojson
        self.filters = {name: _checked_filter(name, made) for name, made in self.filters.items()}
        del self.globals["lipsum"]  # without end, where it is asked for much
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
        budget = _budget(context)
        budget.check()
        if obj is self.look_at_clock:
            return None
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, int):
            for value in (*args, *kwargs.values()):
                sizes.check_number(value)
        elif isinstance(owner, (str, bytes)):
            sizes.check_method(owner, getattr(obj, "__name__", ""), (*args, *kwargs.values()))
        result = super().call(context, obj, *args, **kwargs)
        budget.count(result)
        return result

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Add, multiply, raise or format, unless the result is huge."""
        sizes.check_binop(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        _budget(context).count(result)
        return result

    def join_values(self, context: Context, values: tuple[object, ...]) -> str:
        """What `~` makes."""
        sizes.check_printed(*values)
        return self.joiner(context)(map(str, values))

    def joiner(self, context: Context) -> Callable[[Iterable[str]], str]:
        """What puts together the texts that a rendering prints into variables."""
        budget = _budget(context)

        def join(pieces: Iterable[str]) -> str:
            text = sizes.bounded_text(pieces)
            budget.count(text)
            return text

        return join

    def wrap_str_format(self, value: object) -> Callable[..., str] | None:
        """Keep text methods that format within bounds, besides keeping them from attributes."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        form = str(getattr(value, "__self__", ""))
        formatted = wrapped

        def bounded(*args: object, **kwargs: object) -> str:
            inner = [item for arg in args if isinstance(arg, Mapping) for item in arg.values()]
            sizes.check_brace_form(form, *args, *kwargs.values(), *inner)
            return formatted(*args, **kwargs)

        return bounded

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


def _budget(context: Context) -> _Budget:
    budget = context.parent[_BUDGET]
    if not isinstance(budget, _Budget):
        raise SecurityError(f"it uses the name {_BUDGET}")
    return budget


@pass_context
def _checked_print(_: Context, value: object) -> object:
    """What is printed, as it is; data are checked, since they become text only now."""
    if not isinstance(value, str):
        sizes.check_printed(value)
    return value


def _checked_filter(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses to make huge texts. It takes the context, so that it is never run when a template is compiled."""
    passed = getattr(filter_, "jinja_pass_arg", None)
    wanted = passed.name if passed is not None else ""

    @pass_context
    def checked(context: Context, value: object, *args: object, **kwargs: object) -> object:
        budget = _budget(context)
        budget.check()
        sizes.check_filter(name, value, (*args, *kwargs.values()))
        given = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        first = (given[wanted],) if wanted else ()
        result = filter_(*first, value, *args, **kwargs)
        budget.count(result)
        return result

    return checked


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _clock(now: datetime) -> Callable[[str], str]:
    """`strftime_now`. Time stands still during a rendering."""
    return lambda form: now.strftime(form)
