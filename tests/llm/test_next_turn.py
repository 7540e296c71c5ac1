"""A cache that stripped thoughts do not break, and the reasons given where something else does."""

import asyncio
import functools

import pytest

from samovar.engine.page_pool import n_pages_for
from samovar.kernels import PAGE_TOKENS
from samovar.llm.dialogue import Dialogue
from samovar.llm.model_text import RenderSettings
from tests.engine.scripted import by_position, thinker
from tests.llm.scripted import TEMPLATES, scripted

QUESTIONS = [
    "Whose samovar was it, and who carried it home?",
    "And the tea?",
    "Tell me 3 things about the snow in March, please.",
]
ANSWERS = ["It was my grandmother's; a cousin carried it.", "Hot, with jam.\n\nAnd a lump of sugar.", "White. Deep. Gone."]
THOUGHTS = " ".join(f"Cousin {i} came by in year {i * i % 89}." for i in range(20))
CALL = '<tool_call>\n{"name": "look", "arguments": {"where": "attic"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def said_by(llm, *, thinks=True):
    """A script: some thoughts, then the answer to as many questions as the prompt has."""
    tokenizer = llm.tokenizer
    user_ids = tokenizer.encode("<|im_start|>user")
    answers = [[*tokenizer.encode(a), tokenizer.eos_id] for a in ANSWERS]
    opening = "" if llm._text.render([user("?")], RenderSettings()).is_open else "<think>\n"
    thoughts, blank = tokenizer.encode(f"{opening}{THOUGHTS}\n</think>"), tokenizer.encode("\n\n")

    @functools.cache
    def script(prompt_ids):
        n_turns = sum(prompt_ids[i : i + 2] == tuple(user_ids) for i in range(len(prompt_ids)))
        answer = answers[n_turns - 1]
        return thinker(thoughts, answer, 151_668, blank) if thinks else by_position(answer)

    return lambda prompt_ids, generated: script(prompt_ids)(prompt_ids, generated)


def converse(llm, *, settles=True, ask=None, **options):
    """Three turns; what came of each."""
    turns, results = [], []
    for question in QUESTIONS:
        turns.append(user(question))
        result = ask(llm, list(turns)) if ask else llm.chat(turns, **options)
        turns.append(assistant(result.text))
        results.append(result)
        if settles:
            llm.settle()
    return results


def n_new(llm, question):
    """Tokens of a question and of what the template has around it before the answer."""
    return len(llm._text.render([user(question)], RenderSettings()).ids) - 3 + 4  # an empty block of thoughts may follow


@pytest.mark.parametrize(("kind", "options"), [
    ("hybrid", {}), ("always", {}), ("hybrid", {"thinking": False}), ("hybrid", {"thinking_budget": 0}),
    ("hybrid", {"thinking_budget": 60}), ("always", {"thinking_budget": 0}),
])  # fmt: skip
def test_a_next_turn_computes_its_question_and_little_else(request, kind, options):
    llm = request.getfixturevalue(f"{kind}_llm")
    thinks = options.get("thinking") is not False
    with scripted(llm, said_by(llm, thinks=thinks)):
        results = converse(llm, **options)
    assert [r.text for r in results] == ANSWERS
    assert [r.reasoning is None for r in results] == [not thinks or options.get("thinking_budget") == 0] * 3
    for question, result in zip(QUESTIONS[1:], results[1:], strict=True):
        assert result.usage.n_prompt - result.usage.n_cached <= n_new(llm, question)
        assert result.cache_miss_reason is None


def ask_stream(llm, turns):
    stream = llm.stream_chat(turns, temperature=0)
    list(stream)
    return stream.result


def ask_async(llm, turns):
    async def main():
        stream = llm.astream_chat(turns, temperature=0)
        async for _ in stream:
            pass
        return stream.result

    return asyncio.run(main())


def ask_with_stop_string(llm, turns):
    return llm.chat(turns, stop=[" carried", "lump", "Deep"], temperature=0)


@pytest.mark.parametrize("ask", [ask_stream, ask_async, ask_with_stop_string])
def test_streams_and_stopped_answers_prepare_the_next_turn_too(hybrid_llm, ask):
    with scripted(hybrid_llm, said_by(hybrid_llm)):
        results = converse(hybrid_llm, ask=ask)
    for question, result in zip(QUESTIONS[1:], results[1:], strict=True):
        assert result.usage.n_prompt - result.usage.n_cached <= n_new(hybrid_llm, question)


def test_an_answer_that_was_cancelled_in_its_thoughts_leaves_none_of_them(hybrid_llm):
    with scripted(hybrid_llm, said_by(hybrid_llm)):
        stream = hybrid_llm.stream_chat(QUESTIONS[0], temperature=0)
        for _ in range(100):
            next(stream)
        stream.close()
        hybrid_llm.settle()
        assert cached_thoughts(hybrid_llm) == []
        assert hybrid_llm._engine.pool.n_free >= hybrid_llm._engine.pool.n_pages - 3


def cached_thoughts(llm):
    """Texts of cached pages that begin inside thoughts."""
    pages = [llm.tokenizer.decode(path[-1].ids) for _, path in llm._engine.cache.paths()]
    return [text for text in pages if "Cousin" in text and "<think>" not in text and "<|im_start|>" not in text]


@pytest.mark.parametrize("ask", [None, ask_stream, ask_with_stop_string])
def test_the_branch_with_the_thoughts_is_forgotten(hybrid_llm, ask):
    engine = hybrid_llm._engine
    with scripted(hybrid_llm, said_by(hybrid_llm)):
        for n_turns in (1, 2, 3):
            turns = [message for q, a in zip(QUESTIONS, ANSWERS, strict=True) for message in (user(q), assistant(a))]
            turns = turns[: 2 * n_turns - 1]
            result = ask(hybrid_llm, turns) if ask else hybrid_llm.chat(turns, temperature=0)
            assert result.usage.n_thinking > 3 * PAGE_TOKENS
            hybrid_llm.settle()
            assert cached_thoughts(hybrid_llm) == []
            n_live = n_pages_for(result.usage.n_prompt + len(hybrid_llm.tokenizer.encode(result.text)) + 8)
            assert engine.pool.n_pages - engine.pool.n_free <= n_live + 2 * n_turns  # the pages where the branches part


def test_the_next_turns_form_changes_no_bit_of_an_answer(models, hybrid_llm):
    fresh = models.load("hybrid", prefix_cache=False)
    options = {"temperature": 0.9, "seed": 11, "logprobs": 5, "thinking_budget": 60}
    found = []
    for llm in (hybrid_llm, fresh):
        with scripted(llm, said_by(llm)):
            found.append(converse(llm, **options))
    for cached, alone in zip(*found, strict=True):
        assert (cached.token_ids, cached.logprobs) == (alone.token_ids, alone.logprobs)
        assert alone.usage.n_cached == 0
    assert found[0][2].usage.n_cached > 0


def test_after_a_tool_call_the_branch_with_the_thoughts_is_the_live_one(hybrid_llm):
    script = [*hybrid_llm.tokenizer.encode(f"<think>\n{THOUGHTS}\n</think>\n\n{CALL}"), hybrid_llm.tokenizer.eos_id]
    asked = [user(QUESTIONS[0])]
    with scripted(hybrid_llm, by_position(script)):
        first = hybrid_llm.chat(asked, tools=TOOLS, temperature=0)
        hybrid_llm.settle()
        called = {
            "role": "assistant",
            "content": "",
            "reasoning_content": first.reasoning,
            "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"where": "attic"}}}],
        }
        tool = {"role": "tool", "content": "A samovar."}
        second = hybrid_llm.chat([*asked, called, tool], tools=TOOLS, temperature=0)
    assert first.text == CALL
    assert second.usage.n_cached >= first.usage.n_prompt + first.usage.n_completion - 2
    assert second.cache_miss_reason is None


@pytest.fixture
def unprepared(monkeypatch):
    monkeypatch.setattr(Dialogue, "prepare_next_turn", lambda *_: None)


@pytest.mark.parametrize("kind", ["hybrid", "always"])
def test_without_it_the_reason_names_the_message_and_the_token(request, kind, unprepared):
    llm = request.getfixturevalue(f"{kind}_llm")
    with scripted(llm, said_by(llm)):
        results = converse(llm, temperature=0)
    at = results[1].usage.n_cached
    assert results[0].cache_miss_reason is None
    assert results[1].cache_miss_reason == (
        f"message 2 of 3 (assistant): at token {at} of the prompt there is 'It', where the cached text has '<think>'"
    )
    assert results[2].cache_miss_reason.startswith("message 4 of 5 (assistant): ")
    assert "'<think>'" in results[2].cache_miss_reason


SYSTEM = {"role": "system", "content": "You keep the inventory of a house with 12 rooms. " * 4}
BASE = [SYSTEM, user("a"), assistant("Yes"), user("a"), assistant("Yes"), user("And a stove?")]


def reason(llm, before, after, before_options=None, after_options=None):
    """Why the prompt of `after` is not wholly cached once `before` was asked."""
    llm._engine.cache.clear()
    llm.chat(before, max_tokens=1, **(before_options or {}))
    llm.settle()
    return llm.chat(after, max_tokens=1, **(after_options or {})).cache_miss_reason


def with_message(index, **changes):
    return [message | changes if i == index else message for i, message in enumerate(BASE)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (with_message(0, content="You keep no inventory."), "message 1 of 6 (system): at token 5 of the prompt there is ' no'"),
        (with_message(1, content="b"), "message 2 of 6 (user): "),
        (with_message(2, content="No"), "message 3 of 6 (assistant): "),
        (with_message(3, content="b"), "message 4 of 6 (user): "),
        (with_message(4, content="No"), "message 5 of 6 (assistant): "),
        (with_message(5, content="And a roof?"), "message 6 of 6 (user): "),
        ([*BASE[:5], user("And a stove? Where?")], "message 6 of 6 (user): "),
        ([BASE[0], BASE[1], user("a")], "what follows message 2 of 3 (user): "),
        (BASE[1:], "the text before the messages: "),
    ],
)
def test_the_reason_names_the_message_that_differs(never_llm, after, expected):
    found = reason(never_llm, BASE, after)
    assert found is not None
    assert found.startswith(expected)


def test_the_reason_is_found_in_conversations_that_hold_thoughts(never_llm):
    before = with_message(2, reasoning_content="Hm.")
    found = reason(never_llm, before, [*before[:5], user("And a roof?")])
    assert found is not None
    assert found.startswith("message 6 of 6 (user): ")


def test_there_is_no_reason_where_all_of_a_prompt_is_cached(never_llm):
    assert reason(never_llm, BASE, BASE[:4]) is None
    assert reason(never_llm, BASE, BASE) is None
    assert reason(never_llm, BASE[:4], BASE) is None


def test_the_reason_tells_other_tools_and_another_mode(hybrid_llm):
    other = [{"type": "function", "function": TOOLS[0]["function"] | {"name": "seek"}}]
    found = reason(hybrid_llm, BASE, BASE, {"tools": TOOLS}, {"tools": other})
    assert found.startswith("what follows message 1 of 6 (system): ")
    assert "'seek'" in found or "'look'" in found or "'see" in found
    none = reason(hybrid_llm, BASE, BASE, {"tools": TOOLS}, {})
    assert none.startswith(("what follows message 1 of 6 (system): ", "message 1 of 6 (system): "))
    mode = reason(hybrid_llm, BASE, BASE, {"thinking": True}, {"thinking": False})
    assert mode is None or mode.startswith("what follows message 6 of 6 (user): ")


def test_the_reason_for_an_answer_that_is_continued_otherwise(never_llm):
    one, other = ([*BASE[:2], assistant(text)] for text in ("It stands in the hall", "It stands in the attic"))
    found = reason(never_llm, one, other, {"continue_final": True}, {"continue_final": True})
    assert found.startswith("message 3 of 3 (assistant): ")
    assert "' attic'" in found or "' att'" in found
    assert "' hall'" in found


def test_the_reason_finds_messages_that_come_in_parts(never_llm):
    def in_parts(message):
        return message | {"content": [{"type": "text", "text": message["content"]}]}

    found = reason(never_llm, BASE, [in_parts(message) for message in with_message(3, content="b")])
    assert found.startswith("message 4 of 6 (user): ")


def test_marks_in_messages_and_messages_without_text_do_no_harm(hybrid_llm):
    odd = [user("\ue0f07;x\ue0f17;"), {"role": "assistant", "content": None, "tool_calls": [
        {"type": "function", "function": {"name": "look", "arguments": {}}}
    ]}, {"role": "tool", "content": "<tool_response>"}, user("b")]  # fmt: skip
    found = reason(hybrid_llm, odd, [*odd[:3], user("c")])
    assert found is not None
    assert "(user)" in found or "(tool)" in found


@pytest.mark.parametrize("name", ["never", "qwen2"])
def test_where_there_is_nothing_to_strip_nothing_is_prepared(models, name, monkeypatch):
    llm = models.load(name)
    asides = []
    monkeypatch.setattr(llm._client, "aside", asides.append)
    first = llm.chat([user("Hi")], max_tokens=8)
    assert asides == []
    turns = [user("Hi"), assistant(first.text), user("And?")]
    assert llm.chat(turns, max_tokens=2).usage.n_cached >= first.usage.n_prompt


def test_a_template_that_takes_no_next_turn_costs_nothing(models):
    once = "{% if messages|length > 1 %}{{ raise_exception('one message only') }}{% endif %}" + TEMPLATES["always"]()
    llm = models.load(once)
    with scripted(llm, said_by(llm)):
        result = llm.chat(QUESTIONS[0], temperature=0)
        llm.settle()
    assert result.text == ANSWERS[0]


def test_a_next_turn_that_does_not_fit_is_not_prepared(models):
    llm = models.load("hybrid", max_context=64)
    result = llm.chat(QUESTIONS[0], max_tokens=None, temperature=0)
    llm.settle()
    assert result.finish_reason in ("length", "stop")


def test_a_request_goes_before_the_preparation(hybrid_llm):
    with scripted(hybrid_llm, said_by(hybrid_llm)):
        first = hybrid_llm.chat(QUESTIONS[0], temperature=0)
        at_once = hybrid_llm.chat([user(QUESTIONS[0]), assistant(first.text), user(QUESTIONS[1])], temperature=0)
        hybrid_llm.settle()
    assert at_once.text == ANSWERS[1]
    assert at_once.usage.n_prompt > at_once.usage.n_cached
