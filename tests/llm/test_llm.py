import subprocess
import sys
import textwrap

import numpy as np
import pytest

from samovar.engine.runner import Runner
from samovar.errors import BadRequest, EngineFailed, ModelNotFound, PromptTooLong, SamovarError
from samovar.llm import LLM
from tests.llm.conftest import with_template

QUESTION = [{"role": "user", "content": "Whose samovar was it?"}]


def test_an_answer_is_the_fold_of_its_stream(tiny_llm):
    stream = tiny_llm.stream_chat(QUESTION, seed=5, max_tokens=20, temperature=1.0)
    text = "".join(delta.text for delta in stream)
    whole = tiny_llm.chat(QUESTION, seed=5, max_tokens=20, temperature=1.0)
    assert stream.result.text == text == whole.text
    assert stream.result.token_ids == whole.token_ids


def test_usage_counts_prompt_and_completion(tiny_llm):
    prompt = "The water is hot"
    result = tiny_llm.generate(prompt, max_tokens=7, temperature=0)
    assert result.usage.n_prompt == len(tiny_llm.tokenizer.encode(prompt))
    assert result.usage.n_completion == len(result.token_ids) <= 7


def test_the_prompts_of_a_list_are_answered_as_they_are_alone(tiny_llm):
    prompts = ["The water", "Nobody remembers whose samovar it was, or which of the cousins", "S"]
    options = {"temperature": 1.0, "seed": 3, "max_tokens": 15}
    together = tiny_llm.generate(prompts, **options)
    assert [r.token_ids for r in together] == [tiny_llm.generate(p, **options).token_ids for p in prompts]


def test_a_second_turn_reuses_the_first_and_answers_as_a_fresh_model_does(tiny_folder):
    llm, fresh = LLM(tiny_folder), LLM(tiny_folder)
    first = llm.chat(QUESTION, temperature=0, max_tokens=10)
    turns = [*QUESTION, {"role": "assistant", "content": first.text}, {"role": "user", "content": "And the tea?"}]
    second, alone = (model.chat(turns, temperature=0, max_tokens=10) for model in (llm, fresh))
    assert second.usage.n_cached >= first.usage.n_prompt
    assert alone.usage.n_cached == 0
    assert second.token_ids == alone.token_ids


@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16", "int8"])
def test_each_type_of_keys_and_values_gives_nearly_the_logits_of_float32(tiny_folder, kv_type):
    ids = list(range(5, 65))
    wanted, ours = (LLM(tiny_folder, kv_type=kind).logits(ids) for kind in ("f32", kv_type))
    tolerance = {"f32": 0, "f16": 2e-3, "bf16": 2e-2, "int8": 5e-2}[kv_type]
    assert np.abs(ours - wanted).max() <= tolerance * np.abs(wanted).max()


def test_a_closed_stream_leaves_the_model_ready_and_counts_as_cancelled(tiny_llm):
    stream = tiny_llm.stream_chat(QUESTION, temperature=1.0, seed=1, max_tokens=50)
    next(stream)
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    assert 1 <= stream.result.usage.n_completion < 50
    assert tiny_llm.chat(QUESTION, temperature=0, max_tokens=3).usage.n_completion <= 3


def test_with_closes_the_model(tiny_folder):
    with LLM(tiny_folder) as llm:
        stream = llm.stream_chat(QUESTION, temperature=1.0, seed=1, max_tokens=50)
        next(stream)
    with pytest.raises(EngineFailed, match="the model was closed"):
        llm.chat(QUESTION, max_tokens=1)


def test_a_stream_that_nobody_reads_holds_no_pages(tiny_llm):
    cache = tiny_llm._engine.cache
    tiny_llm.stream_chat(QUESTION).close()
    tiny_llm.stream_generate("The water")
    tiny_llm.logits([1])  # the engine has been at work since
    assert cache.n_available == tiny_llm._engine.pool.n_pages


def test_the_reported_seed_repeats_an_answer(tiny_llm):
    first = tiny_llm.generate("The water", temperature=1.5, max_tokens=20)
    again = tiny_llm.generate("The water", temperature=1.5, max_tokens=20, seed=first.seed)
    assert again.token_ids == first.token_ids


def test_a_stop_string_ends_the_answer_and_is_not_in_it(tiny_llm):
    free = tiny_llm.generate("The water", temperature=1.0, seed=2, max_tokens=30)
    middle = len(free.text) // 2
    stop = free.text[middle : middle + 3]
    stopped = tiny_llm.generate("The water", temperature=1.0, seed=2, max_tokens=30, stop=stop)
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.usage.n_completion < free.usage.n_completion


def test_logits_are_float32_for_every_position(tiny_llm):
    logits = tiny_llm.logits([5, 6, 7])
    assert logits.dtype == np.float32
    assert logits.shape == (3, tiny_llm.model.config.vocab_size)
    assert np.array_equal(logits[:2], tiny_llm.logits([5, 6]))


def test_thoughts_and_answer_come_apart(thinking_llm, monkeypatch):
    ids = [*thinking_llm.tokenizer.encode("The tea\n</think>\n\nis hot"), thinking_llm.tokenizer.eos_id]
    follow(thinking_llm, monkeypatch, ids)
    result = thinking_llm.chat(QUESTION)
    assert (result.reasoning, result.text) == ("The tea", "is hot")
    assert 0 < result.usage.n_thinking < result.usage.n_completion == len(ids)
    deltas = list(thinking_llm.stream_chat(QUESTION))
    assert "".join(d.text for d in deltas if d.field == "reasoning") == "The tea"
    assert "".join(d.text for d in deltas if d.field == "content") == "is hot"


def test_without_thinking_everything_is_the_answer(thinking_llm, monkeypatch):
    ids = [*thinking_llm.tokenizer.encode("The tea is hot"), thinking_llm.tokenizer.eos_id]
    follow(thinking_llm, monkeypatch, ids)
    result = thinking_llm.chat(QUESTION, thinking=False)
    assert (result.reasoning, result.text, result.usage.n_thinking) == (None, "The tea is hot", 0)


def test_thinking_is_refused_where_the_template_has_no_such_mode(tiny_llm, tiny_folder):
    with pytest.raises(BadRequest, match="no thinking mode") as caught:
        tiny_llm.chat(QUESTION, thinking=True)
    assert str(tiny_folder) not in str(caught.value), "who asks a model is not told where it lies"
    assert tiny_llm.chat(QUESTION, thinking=False, max_tokens=2).reasoning is None


def test_a_model_that_always_thinks_refuses_to_stop(tiny_folder, tmp_path):
    always = "{{ messages[0].content }}<think>\n"
    llm = LLM(with_template(tiny_folder, always, tmp_path / "model"))
    with pytest.raises(BadRequest, match="always thinks"):
        llm.chat(QUESTION, thinking=False)


def test_chat_without_a_template_says_what_to_do(tiny_folder, tmp_path):
    llm = LLM(with_template(tiny_folder, None, tmp_path / "model"))
    with pytest.raises(BadRequest, match="no chat template"):
        llm.chat(QUESTION)
    assert llm.generate("The water", max_tokens=2).usage.n_completion


def test_bad_requests_are_refused_by_name(tiny_llm):
    with pytest.raises(BadRequest):
        tiny_llm.chat([])
    with pytest.raises(BadRequest, match="temprature"):
        tiny_llm.chat(QUESTION, temprature=1)
    with pytest.raises(PromptTooLong, match="512"):
        tiny_llm.generate("The water in the samovar is hot. " * 200)
    with pytest.raises(BadRequest, match="n_threads"):
        LLM(tiny_llm.path, n_threads=0)
    with pytest.raises(BadRequest, match="1 to 512"):
        LLM(tiny_llm.path, max_context=513)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.generate([]),
        lambda m: m.generate(None),
        lambda m: m.generate([1, 2]),
        lambda m: m.chat(None),
        lambda m: m.chat(3),
        lambda m: m.logits("abc"),
        lambda m: m.logits(None),
        lambda m: m.logits([1.5]),
        lambda m: m.logits([True]),
        lambda m: m.logits([[1, 2]]),
        lambda m: m.generate("a", stop_token_ids=5),
        lambda m: LLM(m.path, kv_type="q8"),
        lambda m: LLM(m.path, kv_type=["int8"]),
        lambda m: LLM(m.path, n_threads=1.5),
        lambda m: LLM(m.path, max_context="5"),
    ],
)
def test_values_of_the_wrong_kind_are_bad_requests(tiny_llm, call):
    with pytest.raises(BadRequest):
        call(tiny_llm)


def test_an_unknown_instruction_set_names_those_there_are(tiny_llm):
    with pytest.raises(BadRequest, match=r"'sse9' is not available.*numpy"):
        LLM(tiny_llm.path, isa="sse9")


def test_a_processor_without_vector_instructions_is_slow_and_says_so(tiny_llm, monkeypatch):
    monkeypatch.setattr("samovar.llm.setup.available_isas", lambda: ("scalar",))
    plain = LLM(tiny_llm.path)
    assert plain.ops.isa == "scalar"
    assert "AVX2" in plain.warnings[0]
    assert "slower" in plain.warnings[0]
    assert LLM(tiny_llm.path, isa="scalar").slow_reason is None


def test_an_instruction_set_that_failed_its_check_is_announced(tiny_llm, monkeypatch):
    monkeypatch.setattr("samovar.llm.setup.isa_warning", lambda: "AMX gave a wrong product")
    assert LLM(tiny_llm.path).warnings[0] == "AMX gave a wrong product"
    assert LLM(tiny_llm.path, isa=tiny_llm.ops.isa).slow_reason is None


def test_an_empty_name_is_not_the_default():
    with pytest.raises(SamovarError):
        LLM("")


def test_a_result_taken_from_a_running_stream_says_so(tiny_llm):
    stream = tiny_llm.stream_generate("The water", max_tokens=5, temperature=0)
    next(stream)
    assert stream.result.finish_reason == "unfinished"


def test_without_a_model_in_the_store_the_default_names_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path))
    with pytest.raises(ModelNotFound, match="samovar pull smollm2:135m"):
        LLM()


def follow(llm, monkeypatch, ids):
    """Let the model's logits prescribe these answer ids, through the true engine."""
    decoder = llm._engine.model

    def scripted(ids_T, positions_T, attend, rows_S, adapted=()):
        logits_SV = decoder(ids_T, positions_T, attend, rows_S) * 0
        scripted.n_prompt = scripted.n_prompt or len(ids_T)  # the first pass reads the prompt
        for row, logits_V in zip(rows_S, logits_SV, strict=True):
            at = int(positions_T[row]) + 1 - scripted.n_prompt
            logits_V[ids[min(at, len(ids) - 1)]] = 100  # a wrong guess may go past the end
        return logits_SV

    scripted.n_prompt = 0
    llm.settle()
    monkeypatch.setattr(llm._engine.decoding, "runner", Runner(scripted, llm.ops, llm._engine.pool))
    llm._engine.cache.clear()


def test_raw_text_needs_no_jinja(tiny_folder):
    program = """
        import sys
        from samovar import LLM
        LLM(sys.argv[1], cache=False).generate("a", max_tokens=1)
        assert "jinja2" not in sys.modules
        LLM(sys.argv[1], cache=False).chat("a", max_tokens=1)
        assert "jinja2" in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tiny_folder)], check=True)


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda m: m.generate("a", min_tokens=3, choices=["a", "b"]), "min_tokens"),
        (lambda m: m.save_prefixes(None), "folder"),
        (lambda m: m.load_prefixes(""), "folder"),
        (lambda m: m.load_adapter("q", 5), "path"),
        (lambda m: m.load_adapter("q\n", "x"), "name"),
        (lambda m: m.chat("a", thinking_budget="x"), "thinking_budget"),
        (lambda m: LLM(m.path, prefix_cache="no"), "prefix_cache"),
        (lambda m: LLM(m.path, process="yes"), "process"),
    ],
)
def test_what_contradicts_itself_or_has_the_wrong_type_is_refused_by_name(tiny_llm, call, param):
    with pytest.raises(BadRequest, match=param) as caught:
        call(tiny_llm)
    assert caught.value.param == param
