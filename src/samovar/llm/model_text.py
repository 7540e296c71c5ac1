"""What a checkpoint says about text: its tokenizer, its chat template, where answers end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from samovar.errors import BadRequest, FormatError
from samovar.formats import Checkpoint
from samovar.formats.cache import CacheStore
from samovar.formats.end_ids import end_ids
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.gguf_header_cache import facts_of
from samovar.text.rendered_prompt import RenderedPrompt
from samovar.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from samovar.text.chat_template import ChatTemplate

_OPEN, _CLOSE = "<think>", "</think>"
_END = "\ue0f2 "  # of a message that is continued: for private use, and a space that shows whether the template trims


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered conversation, as text and as token ids; `is_thinking` when the answer begins with thoughts, `is_open` when
    their opening tag is there; `is_continued` when it ends inside an answer, which goes on; `can_think` when the model could
    have been told to think."""

    text: str
    ids: tuple[int, ...]
    is_thinking: bool
    is_open: bool = False
    is_continued: bool = False
    can_think: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSettings:
    """What goes into a prompt beside the messages. `thinking` None is the template's default."""

    tools: Sequence[dict[str, object]] | None = None
    thinking: bool | None = None
    template_options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelText:
    """Tokenizer, template and the ids that end an answer. `template_source` is None where the checkpoint carries none."""

    tokenizer: Tokenizer
    template_source: str | None
    eos_ids: tuple[int, ...]
    generation_config: Mapping[str, object]
    metadata: Mapping[str, object]
    origin: str

    @cached_property
    def template(self) -> "ChatTemplate":
        """The compiled template. Raises BadRequest where there is none, TemplateError for one that is unsound."""
        # Imported and compiled where it is needed: both take as long as loading a small model, and raw text needs neither.
        from samovar.text.chat_template import ChatTemplate

        if self.template_source is None:
            raise BadRequest("the model carries no chat template; use generate, or an instruct model")
        return ChatTemplate(
            self.template_source,
            special_tokens=self.tokenizer.special_tokens,
            control_tokens=tuple(self.tokenizer.control_tokens),
            origin=self.origin,
        )

    @property
    def is_coder(self) -> bool:
        """Whether the template has Qwen3-Coder's form of calls. Qwen3.5 has it too, under architectures of its own."""
        return "<function=" in (self.template_source or "")

    @property
    def has_thinking_switch(self) -> bool:
        """Whether the template can be told to think or not to. Raises as `template` does."""
        return "enable_thinking" in self.template.source

    def rendered(
        self, messages: Sequence[dict[str, object]], settings: RenderSettings, *, is_continued: bool = False
    ) -> RenderedPrompt:
        """The text of a conversation, with the beginning of an answer or, where the last message is continued, without."""
        return self.template.render(
            messages,
            tools=settings.tools,
            add_generation_prompt=not is_continued,
            enable_thinking=None if is_continued else settings.thinking,
            **settings.template_options,
        )

    def render(self, messages: Sequence[dict[str, object]], settings: RenderSettings) -> Prompt:
        """Render and encode a conversation. Raises BadRequest for one the template refuses, or a mode that it has not."""
        rendered, thinking = self.rendered(messages, settings), settings.thinking
        ids = tuple(self.tokenizer.encode_rendered(rendered))
        tail = rendered.text.rstrip()
        is_open = tail.endswith(_OPEN)
        if thinking is False and is_open:
            raise BadRequest("this model always thinks; its template has no way to switch it off", param="thinking")
        can_think = is_open or self.has_thinking_switch
        if thinking is True and not can_think:
            raise BadRequest("this model has no thinking mode in its template", param="thinking")
        is_thinking = can_think and not tail.endswith(_CLOSE)
        return Prompt(text=rendered.text, ids=ids, is_thinking=is_thinking, is_open=is_open, can_think=can_think)

    def render_continued(self, messages: Sequence[dict[str, object]], settings: RenderSettings) -> Prompt:
        """Render a conversation whose last message is an assistant's that is to be continued. Raises BadRequest for any
        other."""
        last = messages[-1] if messages else None
        is_answer = isinstance(last, Mapping) and last.get("role") == "assistant" and not last.get("tool_calls")
        content = last.get("content") if isinstance(last, Mapping) and is_answer else None
        if last is None or not isinstance(content, str) or not content.strip():
            raise BadRequest(
                "only a last message of the assistant, with some text and no tool calls, can be continued", param="messages"
            )
        marked = [*messages[:-1], {**last, "content": content + _END}]
        rendered = self.rendered(marked, settings, is_continued=True)
        end = rendered.text.rfind(_END.strip())
        if end < 0:
            raise BadRequest("the chat template leaves the last message out", param="messages")
        if not rendered.text.startswith(_END, end):  # the template trims messages
            end = len(rendered.text[:end].rstrip())
        spans = tuple((start, min(stop, end)) for start, stop in rendered.plain_spans if start < end)
        cut = RenderedPrompt(text=rendered.text[:end], plain_spans=spans)
        ids = tuple(self.tokenizer.encode_rendered(cut))
        return Prompt(text=cut.text, ids=ids, is_thinking=False, is_continued=True, can_think=self.has_thinking_switch)


def read_model_text(checkpoint: Checkpoint, cache: CacheStore | None = None) -> ModelText:
    """Take tokenizer, template and stop ids out of a checkpoint; with a `cache` the tokenizer comes from there.

    Raises FormatError where one is unsound.
    """
    origin = str(checkpoint.path)  # for whoever loads it; those who ask the model are told its name
    if isinstance(checkpoint, GgufCheckpoint):
        tokenizer = Tokenizer.from_gguf(
            checkpoint.metadata, origin=origin, identity=checkpoint.identity if cache else "", cache=cache
        )
        source = checkpoint.metadata.get("tokenizer.chat_template")
        generation_config: Mapping[str, object] = {}
        # The lists of tokens and merges take tens of megabytes, and are in the tokenizer already.
        metadata: Mapping[str, object] = facts_of(checkpoint.metadata)
    else:
        if checkpoint.tokenizer_json is None:
            raise FormatError(f"{origin}: tokenizer.json is missing; expected it beside config.json")
        tokenizer = Tokenizer.from_tokenizer_json(checkpoint.tokenizer_json, checkpoint.tokenizer_config, cache=cache)
        source, generation_config, metadata = checkpoint.chat_template, checkpoint.generation_config, {}
    if source is not None and not isinstance(source, str):
        raise FormatError(f"{origin}: the chat template is {type(source).__name__}; expected text")
    eos_ids = dict.fromkeys([*end_ids(generation_config, f"{origin}/generation_config.json"), *tokenizer.eos_ids])
    return ModelText(
        tokenizer=tokenizer,
        template_source=source,
        eos_ids=tuple(eos_ids),
        generation_config=generation_config,
        metadata=metadata,
        origin=checkpoint.path.resolve().name,
    )


def with_template(text: ModelText, source: str | None) -> ModelText:
    """The text of a model with a template of the caller's own, where one is given. Raises TemplateError for one that is
    unsound."""
    if source is None:
        return text
    own = replace(text, template_source=source, origin="the chat template that was given")
    assert own.template is not None  # which compiles it
    return own
