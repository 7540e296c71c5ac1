"""`/think` and `/no_think` in messages: who decides, what stays in the text, and what the cache sees of it."""

import pytest

from samovar.errors import BadRequest
from samovar.llm.soft_switch import asked_switch, without_switches
from tests.engine.scripted import by_position
from tests.llm.scripted import scripted

CLOSED = "<think>\n\n</think>\n\n"


def user(text):
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Hi /no_think", False),
        ("/no_think Hi", False),
        ("Hi\n/think", True),
        ("Be quick, /no_think.", False),
        ("天空为什么是蓝色的？/no_think", False),
        ("/think first, then /no_think", False),
        ("/no_think, no: /think!", True),
        ("Open /thinking and /no_thinkers", None),
        ("GET http://host/think", None),
        ("a/no_think", None),
        ("/think/aloud", None),
        ("/think.py", None),
        ("what does `/no_think` do?", None),
        ("/NO_THINK", None),
    ],
)
def test_a_switch_is_a_word_of_its_own_and_the_last_one_counts(text, asked):
    assert asked_switch([user(text)]) is asked
    assert asked_switch([user([{"type": "text", "text": text}])]) is asked


def test_the_last_message_that_has_one_decides_and_answers_and_tools_do_not():
    system, tool = {"role": "system", "content": "/no_think"}, {"role": "tool", "content": "/think"}
    assert asked_switch([system, user("Hi")]) is False
    assert asked_switch([system, user("Hi /think"), {"role": "assistant", "content": "/no_think"}, tool]) is True
    assert asked_switch([user("/think"), user("/no_think"), user("so")]) is False


def test_words_are_taken_out_with_the_space_before_them_and_nothing_else_changes():
    tool = {"role": "tool", "content": "/think"}
    given = [user("  /no_think  Hi /think there /no_think."), user([{"type": "text", "text": "Hi\n/think"}]), tool, user("/a ")]
    assert without_switches(given) == [user("Hi there."), user([{"type": "text", "text": "Hi"}]), tool, user("/a ")]


def test_unsound_messages_are_left_to_be_refused(hybrid_llm, never_llm):
    for llm in (hybrid_llm, never_llm):
        for messages in ([5], [{"role": "user"}], [{"role": ["user"], "content": "/think"}], [user([5, {"text": 3}])]):
            with pytest.raises(BadRequest):
                llm.render_chat(messages)


def test_a_hybrid_is_switched_and_keeps_the_words(hybrid_llm):
    off = hybrid_llm.render_chat("Hi /no_think")
    assert off.text == hybrid_llm.render_chat("Hi /no_think", thinking=False).text
    assert off.text.endswith(CLOSED)
    assert "Hi /no_think<|im_end|>" in off.text
    assert not hybrid_llm.render_chat("Hi /think").text.endswith(CLOSED)


def test_what_a_request_says_itself_comes_first(hybrid_llm):
    assert not hybrid_llm.render_chat("Hi /no_think", thinking=True).text.endswith(CLOSED)
    assert not hybrid_llm.render_chat("Hi /no_think", thinking_budget=50).text.endswith(CLOSED)
    assert hybrid_llm.render_chat("Hi /think", thinking=False).text.endswith(CLOSED)


def test_models_that_do_not_know_the_words_do_not_see_them(never_llm, always_llm):
    for llm in (never_llm, always_llm):
        for word in ("/think", "/no_think"):
            assert llm.render_chat(f"Hi {word}").text == llm.render_chat("Hi").text


def test_models_of_another_family_get_texts_as_they_are(tiny_checkpoints):
    from samovar.llm import LLM

    llm = LLM(tiny_checkpoints.get("qwen2-8-to-1")[0])
    assert "Hi /no_think" in llm.render_chat("Hi /no_think").text
    llm.close()


def test_the_prepared_request_says_which_way_it_went(hybrid_llm, never_llm, always_llm):
    assert hybrid_llm.prepare_chat("Hi /no_think").thinking is False
    assert hybrid_llm.prepare_chat("Hi").thinking is True
    assert hybrid_llm.prepare_chat("Hi", thinking_budget=0).thinking is False
    assert always_llm.prepare_chat("Hi /no_think").thinking is True
    assert never_llm.prepare_chat("Hi /think").thinking is None


@pytest.mark.parametrize("kind", ["hybrid_llm", "never_llm"])
def test_the_next_turn_is_prepared_from_what_the_model_saw(request, kind):
    llm = request.getfixturevalue(kind)
    first = [user("Name a colour, please, any colour that you like. /no_think")]
    with scripted(llm, by_position([*llm.tokenizer.encode("Blue it is."), llm.tokenizer.eos_id])):
        llm.chat(first, max_tokens=20)
        llm.settle()
        second = [*first, {"role": "assistant", "content": "Blue it is."}, user("Why?")]
        again = llm.chat(second, max_tokens=1)
    n_new = len(
        llm.tokenizer.encode("<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    )
    assert again.usage.n_prompt - again.usage.n_cached <= n_new
