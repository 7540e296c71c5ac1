"""A file's chat template against the known-good rendering of its release, conversation by conversation."""

from dataclasses import dataclass, replace
from typing import Final

from samovar.doctor.check_tokenizer import OpenTokenizer
from samovar.doctor.conversations import WITHOUT_CONTENT, Conversation, conversations
from samovar.doctor.finding import Finding, failed, passed, unknown
from samovar.doctor.known_templates import KNOWN_TEMPLATES, KnownTemplate
from samovar.doctor.releases import TEMPLATE, Release
from samovar.doctor.subject import Subject
from samovar.doctor.text_diff import short_diff
from samovar.errors import BadRequest, TemplateError
from samovar.text.chat_template import ChatTemplate

SECTION: Final = "template"
_WHAT: Final = "rendering"
_GIVE: Final = "samovar serve --chat-template-file FILE, or LLM(chat_template=...)"
_OWN: Final = f"use the template of the release's publisher: {_GIVE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """What the template made of one conversation: its text, or why there is none."""

    conversation: Conversation
    text: str = ""
    error: str = ""


def check_template(subject: Subject, opened: OpenTokenizer, release: Release) -> list[Finding]:
    """One line: the template prints what the release's prints, or how it differs."""
    known = KNOWN_TEMPLATES[release.template] if release.template else None
    if subject.template is None:
        return [_absent(subject, known)]
    special = opened.tokenizer.special_tokens if opened.tokenizer else {}
    control = list(opened.tokenizer.control_tokens) if opened.tokenizer else []
    try:
        template = ChatTemplate(subject.template, special_tokens=special, control_tokens=control, origin=subject.path.name)
    except TemplateError as error:
        return [failed(SECTION, _WHAT, str(error), "a template that can be compiled", _OWN)]
    printed = [_print(template, conversation) for conversation in conversations()]
    if known is None:
        return [_without_known(release, printed)]
    wrong = _differences(known, printed)
    if not wrong:
        n_compared = sum(known.takes_tools or not p.conversation.needs_tools for p in printed)
        return [passed(SECTION, _WHAT, f"all {n_compared} conversations as {known.title} prints them")]
    if all(p.conversation.title == WITHOUT_CONTENT and p.error for p in wrong):
        return [_early(known)]
    if known.first_form is not None and not _differences(replace(known, render=known.first_form), printed):
        advice = (
            f"this is the template of the release's first days; plain chat is not touched, and for tools a later one: {_GIVE}"
        )
        return [passed(SECTION, _WHAT, f"as {known.title} prints them, but for {known.fault}", advice=advice)]
    return [_different(release, known, wrong, printed)]


def _print(template: ChatTemplate, conversation: Conversation) -> Printed:
    try:
        rendered = template.render(
            conversation.messages,
            tools=conversation.tools or None,
            add_generation_prompt=conversation.asks_for_answer,
            enable_thinking=conversation.thinking,
        )
    except BadRequest as error:
        return Printed(conversation=conversation, error=str(error))
    return Printed(conversation=conversation, text=rendered.text)


def _differences(known: KnownTemplate, printed: list[Printed]) -> list[Printed]:
    return [
        p
        for p in printed
        if (known.takes_tools or not p.conversation.needs_tools) and (p.error or p.text != known.render(p.conversation))
    ]


def _absent(subject: Subject, known: KnownTemplate | None) -> Finding:
    if known is None:
        return passed(SECTION, _WHAT, "no template, and none is needed")
    if subject.problems and not subject.metadata and not subject.config:
        return unknown(SECTION, _WHAT, "nothing could be read; see the lines on the file")
    return failed(SECTION, _WHAT, "no template", known.title, f"a chat cannot be put as the model knows it: {_OWN}")


def _without_known(release: Release, printed: list[Printed]) -> Finding:
    """A release whose template is not known here: say which known one it is."""
    matching = next((k.title for k in KNOWN_TEMPLATES.values() if not _differences(k, printed)), None)
    use = {
        "embedding": "texts to embed are not chats",
        "reranker": "reranking has a prompt of its own",
        "base": "a base model is not trained on chats",
    }
    found = f"prints what {matching} prints" if matching else "prints none of the renderings known here"
    return unknown(SECTION, _WHAT, found, advice=f"no published rendering of this release is known here; {use[release.kind]}")


def _early(known: KnownTemplate) -> Finding:
    return passed(
        SECTION,
        _WHAT,
        f"as {known.title} prints them, but for {WITHOUT_CONTENT}",
        advice="this is the template of the release's first days, which fails on content null beside tool_calls, as OpenAI's "
        f"clients send it; where you use tools give a later one: {_GIVE}",
    )


def _different(release: Release, known: KnownTemplate, wrong: list[Printed], printed: list[Printed]) -> Finding:
    # The plainest conversation shows the most.
    first = min(wrong, key=lambda p: (bool(p.error), len(p.text)))
    detail = [f"in {first.conversation.title!r}:"]
    detail += [first.error] if first.error else short_diff(known.render(first.conversation), first.text)
    n_compared = sum(known.takes_tools or not p.conversation.needs_tools for p in printed)
    found = f"{len(wrong)} of {n_compared} conversations differ"
    others = [k for k in KNOWN_TEMPLATES.values() if k is not known and not _differences(k, printed)]
    if others:
        found += f"; it is the template of {others[0].title}"
    elif all(p.conversation.needs_tools for p in wrong):
        found += ", all of them with tools"
    if TEMPLATE in release.unverified:
        advice = f"the template of {release.name} is not known for certain here"
        return unknown(SECTION, _WHAT, found, expected=known.title, advice=advice)
    advice = f"answers, tool calls and thoughts get worse when prompts differ from what was trained on: {_OWN}"
    if known.name == "qwen3-coder" and all(p.conversation.tools for p in wrong):
        advice += "; Qwen changed how this template lists tools some time after the release, and the later form is meant here"
    return failed(SECTION, _WHAT, found, known.title, advice, detail)
