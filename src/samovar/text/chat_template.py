"""Chat templates: a conversation to the text a model was trained on, byte for byte what transformers makes of it."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

import jinja2
from jinja2 import meta
from jinja2.exceptions import SecurityError

from samovar.errors import BadRequest, TemplateError
from samovar.text.chat_messages import Json, plain_json, read_messages, read_tools
from samovar.text.control_tokens import token_pattern
from samovar.text.plain_spans import Conversation, find_plain_spans
from samovar.text.rendered_prompt import RenderedPrompt
from samovar.text.template_sandbox import TEMPLATE_FAILURES, TemplateSandbox

# What callers may set besides enable_thinking, if the template reads it: switches of published templates.
OPTIONS: Final = frozenset(("add_vision_id", "date_string", "preserve_thinking", "reasoning_effort", "thinking"))

_PRINTS_TEXT: Final = re.compile(r"arguments['\"\]]*\s+is\s+string")
_GOES_THROUGH: Final = re.compile(r"arguments['\"\]]*\s*(\|\s*items|\.items\(|is\s+mapping)")
_READS_OBJECT: Final = re.compile(r"arguments['\"\]]*\s*(\|\s*(items|tojson)|\.items\(|is\s+mapping)")


class ChatTemplate:
    """A model's own template. Safe to share between threads."""

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str],
        control_tokens: Sequence[str],
        origin: str,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile `source`. Raises TemplateError.

        Templates see `special_tokens` by their names (bos_token, eos_token); `control_tokens` are the texts that count in
        messages as plain text only; `origin` is where the template is from, for messages.
        """
        self.source, self._clock = source, clock
        self._special_tokens = dict(special_tokens)
        self._tokens = token_pattern(control_tokens)
        self._sandbox = TemplateSandbox()
        try:
            self._template = self._sandbox.from_string(source)
            self.variables = frozenset(meta.find_undeclared_variables(self._sandbox.parse(source)))
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{origin}: the chat template is unsound at line {error.lineno}: {error.message}") from None
        except (RecursionError, jinja2.TemplateError, ValueError) as error:
            raise TemplateError(f"{origin}: the chat template is unsound: {_line(error)}") from None
        # A template either prints arguments that are text as they are, or expects an object to print or to go through.
        self._parses_arguments = bool(_READS_OBJECT.search(source)) and (
            not _PRINTS_TEXT.search(source) or bool(_GOES_THROUGH.search(source))
        )

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
        **template_kwargs: object,
    ) -> RenderedPrompt:
        """The conversation as text. Raises BadRequest for messages, tools or options that cannot be honoured, TemplateError
        where the template itself refuses or fails."""
        now = self._clock()
        conversation = Conversation(
            messages=read_messages(messages, parse_arguments=self._parses_arguments),
            tools=read_tools(tools),
            options=self._options(template_kwargs),
        )
        self._refuse_unread(conversation)
        fixed: dict[str, object] = {**self._special_tokens, "documents": None, "add_generation_prompt": add_generation_prompt}
        if enable_thinking is not None:
            fixed["enable_thinking"] = enable_thinking

        def render(given: Conversation) -> str:
            variables = {**fixed, **given.options, "messages": given.messages, "tools": given.tools}
            try:
                return self._sandbox.render(self._template, variables, now)
            except TEMPLATE_FAILURES as error:
                raise self._failure(error) from None

        text = render(conversation)
        return RenderedPrompt(text=text, plain_spans=find_plain_spans(text, conversation, render, self._tokens))

    def _options(self, given: Mapping[str, object]) -> dict[str, Json]:
        """The caller's switches, each one known and read by this template."""
        known = OPTIONS & self.variables
        if unknown := sorted(given.keys() - known):
            takes = ", ".join(sorted(known | {"enable_thinking"} & self.variables)) or "none"
            raise BadRequest(f"{unknown[0]!r} is no option of this model's chat template; it takes: {takes}", param=unknown[0])
        return {key: plain_json(key, value, key) for key, value in given.items()}

    def _refuse_unread(self, conversation: Conversation) -> None:
        """Refuse tools, and calls of tools, that the template would drop in silence."""
        if conversation.tools and "tools" not in self.variables:
            raise BadRequest("this model's chat template has no place for tools", param="tools")
        if "tool_calls" not in self.source and any("tool_calls" in message for message in conversation.messages):
            raise BadRequest("this model's chat template has no place for tool_calls", param="messages")

    def _failure(self, error: BaseException) -> TemplateError:
        if isinstance(error, SecurityError):
            return TemplateError(f"the model's chat template was stopped: {_line(error)}")
        if type(error) is jinja2.TemplateError:  # raised by the template on purpose
            return TemplateError(f"the model's chat template refuses these messages: {_line(error)}", param="messages")
        return TemplateError(f"the model's chat template fails on these messages: {_line(error)}", param="messages")


def _line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:500] or type(error).__name__
