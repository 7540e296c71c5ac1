"""How one chat may call tools: which of them, and whether it has to.

With `tool_choice` "none" the tools stay in the prompt, as vLLM has it by default: the prompt of the next turn begins alike, and
what was computed for it serves. The token that opens a call is barred, and no text is read as a call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from samovar.errors import BadRequest
from samovar.text.chat_messages import Json, read_tools
from samovar.text.grammar_spec import GrammarSpec
from samovar.text.tool_call_parser import ToolCallParser
from samovar.text.tools import Tool, named_tools
from samovar.text.xml_arguments import OPEN_TAG

Mode = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The tools of a chat. `printed` goes into the prompt, `callable` may be called; with `mode` "required" one of them has to
    be. `max_calls` bounds the calls of an answer."""

    printed: Sequence[dict[str, object]] | None = None
    callable: Mapping[str, Tool] = field(default_factory=dict)
    mode: Mode = "none"
    max_calls: int | None = None

    def parser(self, control_tokens: Mapping[str, int], answer: GrammarSpec | None) -> ToolCallParser | None:
        """A parser for one answer, which apart from calls has to match `answer`; None where it is not to call any.

        Where a grammar sees to it that calls have their tags, nothing else is taken for one.
        """
        if self.mode == "none":
            return None
        return ToolCallParser(self.callable, control_tokens, finds_bare=not self._is_bound(answer), max_calls=self.max_calls)

    def grammar(
        self, answer: GrammarSpec | None, template_source: str, control_tokens: Mapping[str, int]
    ) -> GrammarSpec | None:
        """What the answer has to match: `answer`, or calls, or both. Raises BadRequest for what cannot be combined."""
        if not self._is_bound(answer):
            return answer
        from samovar.text.tool_grammar import CallForm, calls_only, calls_or, style_of, text_and_calls

        tools = list(self.callable.values())
        form = CallForm(style=style_of(template_source), control_tokens=control_tokens, max_calls=self.max_calls)
        if self.mode == "required":
            return calls_only(tools, form, param="tools")
        return text_and_calls(tools, form, param="tools") if answer is None else calls_or(answer, tools, form, param="tools")

    def _is_bound(self, answer: GrammarSpec | None) -> bool:
        """A grammar says what calls look like."""
        is_strict = answer is not None or any(tool.is_strict for tool in self.callable.values())
        return self.mode == "required" or (self.mode == "auto" and bool(self.callable) and is_strict)

    def barred_ids(self, control_tokens: Mapping[str, int]) -> tuple[int, ...]:
        """Tokens that an answer must not hold."""
        is_barred = self.printed is not None and self.mode == "none" and OPEN_TAG in control_tokens
        return (control_tokens[OPEN_TAG],) if is_barred else ()


def read_tool_use(
    tools: Sequence[dict[str, object]] | None,
    choice: str | Mapping[str, object] | None,
    parallel: bool | None,
) -> ToolUse:
    """Tools and choice in OpenAI's words. Raises BadRequest for what they do not say, and for a tool that is not there."""
    if parallel is not None and not isinstance(parallel, bool):
        raise BadRequest(f"parallel_tool_calls is {parallel!r}; expected true or false", param="parallel_tool_calls")
    defined = read_tools(tools)
    named = named_tools(defined)
    mode, names = _read_choice("auto" if choice is None else choice)
    if not defined:
        if mode == "required" or names is not None:
            _refuse(f"tool_choice is {choice!r}, and there are no tools; expected tools with it")
        return ToolUse()
    if unknown := [name for name in names or () if name not in named]:
        _refuse(f"tool_choice names {unknown[0]!r}, which is none of the tools: {', '.join(named)}")
    is_named = isinstance(choice, Mapping) and choice.get("type") == "function"
    return ToolUse(
        printed=[_printed(tool) for tool in defined],
        callable=named if names is None else {name: named[name] for name in names},
        mode=mode,
        max_calls=1 if is_named or parallel is False else None,
    )


def _read_choice(choice: str | Mapping[str, object]) -> tuple[Mode, list[str] | None]:
    """The mode, and the names of the tools that may be called where not all may."""
    if choice in ("auto", "none", "required"):
        return choice, None  # type: ignore[return-value]
    if isinstance(choice, Mapping):
        kind = choice.get("type")
        if kind == "function" and choice.keys() == {"type", "function"}:
            return "required", [_name(choice)]
        allowed: Any = choice.get("allowed_tools")
        if kind == "allowed_tools" and isinstance(allowed, Mapping) and choice.keys() == {"type", "allowed_tools"}:
            mode, among = allowed.get("mode"), allowed.get("tools")
            if mode in ("auto", "required") and isinstance(among, list) and among and allowed.keys() == {"mode", "tools"}:
                return mode, [_name(tool) for tool in among]
    return _refuse(
        f'tool_choice is {choice!r}; expected "auto", "none", "required", {{"type": "function", "function": {{"name": ...}}}}, '
        'or {"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": [...]}}'
    )


def _name(tool: object) -> str:
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) and function.keys() == {"name"} else None
    if not isinstance(name, str):
        _refuse(f'tool_choice holds {tool!r}; expected {{"type": "function", "function": {{"name": ...}}}}')
    return name


def _printed(tool: Json) -> dict[str, object]:
    """A definition as the model sees it: `strict` is for the server."""
    assert isinstance(tool, dict)
    function = tool.get("function", tool)
    assert isinstance(function, dict)
    shown: dict[str, object] = {key: value for key, value in function.items() if key != "strict" and value is not None}
    return {**tool, "function": shown} if "function" in tool else shown


def _refuse(message: str) -> NoReturn:
    raise BadRequest(message, param="tool_choice")
