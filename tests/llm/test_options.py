import numpy as np
import pytest

from samovar.errors import BadRequest, FormatError
from samovar.llm.options import Defaults, own_defaults, sampling_params, stop_strings, unread_defaults, unread_hints


def params(defaults=None, **options):
    return sampling_params(options, defaults or {}, eos_ids=(7,), vocab_size=100)


def test_a_callers_value_wins_over_the_default_and_none_means_the_default():
    chosen = params({"temperature": 0.6, "top_k": 20}, temperature=0.0, top_k=None)
    assert (chosen.temperature, chosen.top_k) == (0.0, 20)


def test_a_bias_is_a_mapping_of_ids_to_numbers():
    assert params(logit_bias={3: -5, 4: 2.5}).logit_bias == ((3, -5), (4, 2.5))
    for unsound in ([3, 4], {"3": 1}, {3: "much"}):
        with pytest.raises(BadRequest, match="logit_bias"):
            params(logit_bias=unsound)


def test_the_models_own_file_wins_over_its_family():
    own = own_defaults({"temperature": 0.1, "top_k": 5, "eos_token_id": 2}, {}, "f")
    values = Defaults(own=own, architecture="qwen3").sampling(is_thinking=True)
    assert (values["temperature"], values["top_k"], values["top_p"]) == (0.1, 5, 1.0)


def test_do_sample_false_means_greedy():
    assert own_defaults({"do_sample": False, "temperature": 0.6}, {}, "f")["temperature"] == 0.0


def test_gguf_sampling_hints_are_read():
    assert own_defaults({}, {"general.sampling.temp": 0.3, "general.sampling.top_k": 9}, "f") == {
        "temperature": 0.3,
        "top_k": 9,
    }


@pytest.mark.parametrize(
    ("architecture", "is_thinking", "expected"),
    [
        ("qwen3", True, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        ("qwen3", False, {"temperature": 0.7, "top_p": 0.8, "top_k": 20}),
        ("qwen3_moe", True, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        ("qwen3_moe", False, {"temperature": 0.7, "top_p": 0.8, "top_k": 20}),
        ("llama", False, {"temperature": 0.7, "top_p": 0.9}),
    ],
)
def test_without_a_file_the_family_decides(architecture, is_thinking, expected):
    assert Defaults(own={}, architecture=architecture).sampling(is_thinking=is_thinking) == expected


def test_hints_are_the_numbers_that_people_wrote():
    hints = {"general.sampling.temp": float(np.float32(0.6)), "general.sampling.top_p": float(np.float32(0.95))}
    own = own_defaults({}, hints | {"general.sampling.top_k": 20}, "f")
    assert own == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    assert Defaults(own=own, architecture="qwen3").sampling(is_thinking=False)["temperature"] == 0.7
    unread = {"general.sampling.mirostat": 2, "general.sampling.xtc_probability": 0.0, "general.name": "x"}
    assert unread_hints(hints | unread) == ["general.sampling.mirostat"]


def test_a_coder_without_a_file_has_its_penalty():
    fast = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    assert Defaults(own={}, architecture="qwen3_moe", is_coder=True).sampling(is_thinking=False) == {
        **fast,
        "repetition_penalty": 1.05,
    }
    assert Defaults(own=fast, architecture="qwen3_moe", is_coder=True).sampling(is_thinking=False) == fast


def test_stop_ids_join_the_models_own():
    assert params(stop_token_ids=[3]).stop_ids == (7, 3)


def test_two_calls_without_a_seed_get_different_ones():
    assert params().seed != params().seed


@pytest.mark.parametrize(
    ("options", "name"),
    [({"temperatur": 1}, "temperatur"), ({"stop_token_ids": [100]}, "stop_token_ids"), ({"top_k": 1.5}, "top_k")],
)
def test_unknown_options_and_bad_values_are_refused_by_name(options, name):
    with pytest.raises(BadRequest, match=name):
        params(**options)


def test_stop_takes_a_string_or_a_list_and_no_empty_string():
    assert stop_strings({"stop": "END"}) == ("END",)
    assert stop_strings({"stop": ["a", "b"]}) == ("a", "b")
    assert stop_strings({}) == ()
    for bad in ("", [""], [3], 3):
        with pytest.raises(BadRequest, match="stop"):
            stop_strings({"stop": bad} if bad else {"stop": [""]})


def test_defaults_out_of_range_name_the_file():
    with pytest.raises(FormatError, match=r"folder: .*temperature"):
        own_defaults({"temperature": -3}, {}, "folder")


def test_numbers_of_numpy_are_numbers():
    chosen = params(temperature=np.float32(0.5), top_k=np.int64(4))
    assert (chosen.temperature, chosen.top_k) == (0.5, 4)


def test_defaults_that_nothing_honours_are_named():
    config = {"temperature": 0.6, "eos_token_id": [1], "num_beams": 4, "no_repeat_ngram_size": 3, "min_length": None}
    assert unread_defaults(config | {"output_attentions": False}) == ["no_repeat_ngram_size", "num_beams"]


def test_a_hybrid_that_does_not_think_takes_its_familys_values_for_that_mode():
    shipped = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [151645, 151643]}
    defaults = Defaults(own=own_defaults(shipped, {}, "f"), architecture="qwen3")
    assert defaults.sampling(is_thinking=True) == {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    assert defaults.sampling(is_thinking=False) == {"temperature": 0.7, "top_k": 20, "top_p": 0.8}
    other = Defaults(own=own_defaults(shipped, {}, "f"), architecture="qwen2")
    assert other.sampling(is_thinking=False)["temperature"] == 0.6
