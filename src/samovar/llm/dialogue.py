"""One conversation that is to be answered: its prompt, how it may think, and what can be computed for its next turn."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from samovar.engine.client import EngineClient
from samovar.engine.prefix_cache import Break, n_common
from samovar.engine.request import Event, Request, SamplingParams, Thinking
from samovar.errors import BadRequest, SamovarError
from samovar.llm.answer import Answer
from samovar.llm.model_text import ModelText, Prompt, RenderSettings
from samovar.llm.next_turn import explain_break, next_turn_ids
from samovar.llm.options import DialogueOptions
from samovar.llm.soft_switch import asked_switch, without_switches
from samovar.llm.tool_use import ToolUse, read_tool_use
from samovar.text.grammar_spec import GrammarSpec
from samovar.text.output_parser import CLOSE, OPEN, OutputParser
from samovar.text.tool_call_parser import ToolCallParser
from samovar.text.xml_arguments import OPEN_TAG

MAX_MESSAGES: Final = 10_000
MAX_TOOLS: Final = 1_000
_N_SECOND_TURN = 3  # messages, a system message apart
_RESERVED = frozenset(("messages", "tools", "add_generation_prompt", "enable_thinking"))
Message = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A conversation and what its template made of it. `thinking` is None where the answer has no thoughts to watch."""

    text: ModelText
    messages: Sequence[Message]
    settings: RenderSettings
    prompt: Prompt
    thinking: Thinking | None
    tool_use: ToolUse

    def parser(self) -> OutputParser:
        """A parser for an answer to it."""
        control_tokens = self.text.tokenizer.control_tokens
        if self.prompt.is_continued:
            return OutputParser("answer", control_tokens)
        return OutputParser.for_prompt(self.prompt.text, self.text.tokenizer)

    def tool_parser(self, grammar: GrammarSpec | None) -> ToolCallParser | None:
        """What takes calls out of an answer that apart from them matches a grammar; None where there are to be none."""
        return self.tool_use.parser(self.text.tokenizer.control_tokens, grammar)

    def grammar(self, asked: GrammarSpec | None) -> GrammarSpec | None:
        """What an answer has to match for the tools' sake, and for the grammar that was asked for."""
        return self.tool_use.grammar(asked, self.text.template.source, self.text.tokenizer.control_tokens)

    def barred(self, params: SamplingParams) -> SamplingParams:
        """Parameters that keep an answer from tokens that it must not hold."""
        barred_ids = self.tool_use.barred_ids(self.text.tokenizer.control_tokens)
        bias = {**dict(params.logit_bias), **dict.fromkeys(barred_ids, -100.0)}
        return replace(params, logit_bias=tuple(bias.items())) if barred_ids else params

    def explain(self, at: Break) -> str | None:
        """In words, where its prompt parts from a cached one; None for a first turn, which nobody has seen before."""
        if len(self.messages) < _N_SECOND_TURN:
            return None

        def render(messages: Sequence[Message]) -> str:
            return self.text.rendered(messages, self.settings, is_continued=self.prompt.is_continued).text

        return explain_break(self.text.tokenizer, render, self.messages, self.prompt.ids, at)

    def prepare_next_turn(self, engine: EngineClient, answer: Answer) -> None:
        """While nothing else is to be done, compute the form that this conversation and its answer will have in the next turn.

        The thoughts, which that form lacks, are dropped first, be they an empty block. After a tool call the template keeps
        them, and nothing is to be done. It happens in the background, and costs a caller nothing.
        """
        text, result = answer.text, answer.result()
        has_block = result.reasoning is not None or self.thinking is not None or self.prompt.text.rstrip().endswith(CLOSE)
        if not has_block or result.tool_calls or OPEN_TAG in text or self.prompt.is_continued:
            return
        if result.finish_reason not in ("stop", "length", "cancelled"):
            return
        factor = result.usage.yarn_factor
        engine.aside(lambda: self._prepare(engine, answer.request, text, answer.text_ids, factor))

    def _prepare(self, engine: EngineClient, request: Request, answer: str, dead: tuple[int, ...], factor: int) -> None:
        with contextlib.suppress(SamovarError):  # a template that takes no further turn, or one too long for the context
            ids = next_turn_ids(self.text, self.messages, self.settings, answer)
            realm = (request.tenant, request.adapter or "", factor)
            engine.forget(realm, dead, n_common(ids, dead))
            engine.submit(
                Request(
                    prompt_ids=ids,
                    sampling=SamplingParams(max_tokens=request.sampling.max_tokens),  # what the next turn will ask for, too
                    task="prefill",
                    tenant=request.tenant,
                    adapter=request.adapter,
                    max_context=request.max_context,
                ),
                _ignore,
                is_idle_work=True,
            )


def read_dialogue(text: ModelText, messages: str | Sequence[Message], options: DialogueOptions, architecture: str) -> Dialogue:
    """Render a conversation. Raises BadRequest for one that the template refuses, or a way of thinking that the model has
    not.

    Where the options leave thinking open, `/think` and `/no_think` in the messages of a model that has the choice decide; from
    those of a Qwen3 model without it the words are taken out.
    """
    if not isinstance(messages, Iterable):
        raise BadRequest(f"messages is {messages!r}; expected a text or a list of messages", param="messages")
    thinking, budget, continue_final = options.get("thinking"), options.get("thinking_budget"), options.get("continue_final")
    template_options = options.get("template_options") or {}
    if reserved := sorted(template_options.keys() & _RESERVED):
        raise BadRequest(f"{reserved[0]!r} is no template option; it has a field of its own", param=reserved[0])
    for name, value in (("thinking", thinking), ("continue_final", continue_final)):
        if value is not None and not isinstance(value, bool):
            raise BadRequest(f"{name} is {value!r}; expected True or False", param=name)
    turns: list[Message] = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    for what, found, most in (("messages", turns, MAX_MESSAGES), ("tools", options.get("tools"), MAX_TOOLS)):
        if isinstance(found, list | tuple) and len(found) > most:
            raise BadRequest(f"there are {len(found)} {what}; expected at most {most}", param=what)
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int)):
        raise BadRequest(f"thinking_budget is {budget!r}; expected a whole number of tokens", param="thinking_budget")
    if thinking is False and budget:
        raise BadRequest(
            f"thinking is off, and thinking_budget is {budget}; expected one or the other", param="thinking_budget"
        )
    if text.has_thinking_switch:
        if thinking is None and budget is None and not continue_final:
            thinking = asked_switch(turns)
    elif architecture.startswith("qwen3"):
        turns = without_switches(turns)
    tool_use = read_tool_use(options.get("tools"), options.get("tool_choice"), options.get("parallel_tool_calls"))
    settings = RenderSettings(tools=tool_use.printed, thinking=thinking, template_options=template_options)
    if continue_final:
        if thinking or budget:
            name = "thinking" if thinking else "thinking_budget"
            raise BadRequest(f"an answer that is continued has no thoughts; leave {name} out", param=name)
        prompt = text.render_continued(turns, settings)
    else:
        prompt = text.render(turns, settings)
    return Dialogue(
        text=text,
        messages=turns,
        settings=settings,
        prompt=prompt,
        thinking=_thinking(text, prompt, budget),
        tool_use=tool_use,
    )


def _thinking(text: ModelText, prompt: Prompt, budget: int | None) -> Thinking | None:
    control_tokens = text.tokenizer.control_tokens
    has_tokens = OPEN in control_tokens and CLOSE in control_tokens
    if prompt.is_thinking and has_tokens:
        return Thinking(is_open=prompt.is_open, budget=budget)
    if budget:
        reason = "the model's vocabulary has no tokens for it" if prompt.is_thinking else "the model has no thinking mode"
        raise BadRequest(f"thinking_budget is {budget}, and thoughts cannot be bounded here: {reason}", param="thinking_budget")
    return None


def _ignore(event: Event) -> None:
    """Nobody waits for idle work."""
