"""Vectors, rerank scores and log-likelihoods against `transformers` on the same ids, and batched as alone."""

import json
import math

import numpy as np
import pytest
import torch

from samovar.errors import BadRequest, PromptTooLong
from samovar.llm import LLM
from samovar.llm.scoring import Likelihood
from tests.models.tiny_checkpoints import END_ID

TEXTS = [
    "The water in the samovar is hot, and the tea that we pour for the others is hotter than the water they pour.",
    "snow",
    "Nobody remembers whose samovar it was, or which of the cousins carried it home.",
    "one evening in March <|im_end|> they pour",
    "a",
]
PAIRS = [
    ("The water in the samovar", " is hot"),
    ("The water in the samovar ", "is hot"),
    ("Nobody remembers", " whose samovar it was, or which of the cousins carried it home through the snow"),
    ("", "The tea"),
    ("   ", "tea"),
    ("tea", "\n"),
    ("The tea that we pour for the others is hotter", "!"),
]
NAMES = ["qwen3-tied-8-to-1", "qwen2-8-to-1", "llama3"]
TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tiny_checkpoints):
    """A model as we compute it, and as `transformers` does."""
    folder, witness = tiny_checkpoints.get(request.param)
    llm = LLM(folder)
    yield llm, witness
    llm.close()


@pytest.fixture(scope="module")
def llm_with_yes(tiny_folder, tmp_path_factory):
    """A model whose vocabulary has tokens for yes and no, and the tags that Qwen3-Reranker's prompt holds."""
    folder = tmp_path_factory.mktemp("reranker")
    for path in tiny_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    by_id = {token_id: piece for piece, token_id in vocabulary.items()}
    for token_id, piece, parts in ((317, "no", ["n", "o"]), (318, "ye", ["y", "e"]), (319, "yes", ["ye", "s"])):
        merges[:] = [merge for merge in merges if "".join(merge) != by_id[token_id] and by_id[token_id] not in merge]
        vocabulary.pop(by_id[token_id], None)
        if piece not in vocabulary:
            vocabulary[piece] = token_id
            merges.insert(0, parts) if piece != "yes" else merges.append(parts)
        else:
            vocabulary[f"unused{token_id}"] = token_id
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    llm = LLM(folder)
    yield llm
    llm.close()


def states(witness, ids):
    """The normalised states [T, D] after each token."""
    with torch.inference_mode():
        return witness.model(torch.tensor([ids])).last_hidden_state[0].double().numpy()


def logprobs(witness, ids):
    """Log-probabilities [T, V] of what follows each token."""
    with torch.inference_mode():
        return torch.log_softmax(witness(torch.tensor([ids])).logits[0].double(), -1).numpy()


def test_vectors_are_the_last_states_of_transformers_at_length_one(pair):
    llm, witness = pair
    found = llm.embed(TEXTS)
    assert found.dtype == np.float32
    for text, vector in zip(TEXTS, found, strict=True):
        last = states(witness, llm.tokenizer.encode(text, parse_control=False))[-1]
        assert np.abs(vector - last / np.linalg.norm(last)).max() < TOLERANCE
        assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1, abs=1e-6)


def test_a_text_has_the_same_vector_alone_and_among_others_and_a_second_time(pair):
    llm, _ = pair
    together = llm.embed(TEXTS * 3)
    assert together.tobytes() == np.concatenate([llm.embed(TEXTS)] * 3).tobytes()
    for text, vector in zip(TEXTS, together, strict=False):
        alone = llm.embed(text)
        assert alone.shape == (llm.config.d_model,)
        assert alone.tobytes() == vector.tobytes()
        assert llm.embed(text, tenant="somebody else").tobytes() == vector.tobytes()


def test_fewer_dimensions_are_the_first_ones_at_length_one(tiny_llm):
    whole, cut = tiny_llm.embed(TEXTS), tiny_llm.embed(TEXTS, dimensions=7)
    assert cut.shape == (len(TEXTS), 7)
    first = whole[:, :7].astype(np.float64)
    assert np.abs(cut - first / np.linalg.norm(first, axis=1, keepdims=True)).max() < 1e-6
    assert np.abs(tiny_llm.embed(TEXTS, dimensions=64) - whole).max() < 1e-6
    assert tiny_llm.embed("a", dimensions=1).shape == (1,)


def test_what_the_tokenizer_puts_after_a_text_is_part_of_its_vector_and_of_no_likelihood(tiny_checkpoints, tmp_path):
    folder, witness = tiny_checkpoints.get("qwen3-untied")
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {  # as Qwen3-Embedding has it
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    llm, plain = LLM(tmp_path), LLM(folder)
    last = states(witness, [*plain.tokenizer.encode("The tea"), 0])[-1]
    assert np.abs(llm.embed("The tea") - last / np.linalg.norm(last)).max() < TOLERANCE
    assert llm.log_likelihoods(PAIRS) == plain.log_likelihoods(PAIRS)


def test_scores_are_the_softmax_of_transformers_yes_and_no(llm_with_yes, tiny_checkpoints):
    llm, witness = llm_with_yes, tiny_checkpoints.get("qwen3-untied")[1]
    documents = [*TEXTS, ""]
    scores = llm.rerank("Is the tea hot?", documents, task="Find tea")
    encode = llm.tokenizer.encode
    (no_id,), (yes_id,) = encode("no"), encode("yes")
    for document, score in zip(documents, scores, strict=True):
        ids = [
            *encode(
                "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
                'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
            ),
            *encode(f"<Instruct>: Find tea\n<Query>: Is the tea hot?\n<Document>: {document}", parse_control=False),
            *encode("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ]
        with torch.inference_mode():
            logits = witness(torch.tensor([ids])).logits[0, -1].double()
        assert score == pytest.approx(torch.softmax(logits[[no_id, yes_id]], 0)[1].item(), abs=1e-3)
        assert llm.rerank("Is the tea hot?", [document], task="Find tea") == [score]
    assert len({round(score, 6) for score in scores}) == len(documents)
    assert llm.rerank("Is the tea hot?", ["a"]) != llm.rerank("Is the tea hot?", ["a"], task="Find tea")


def test_likelihoods_are_those_of_transformers_on_the_same_ids(pair):
    llm, witness = pair
    encode = llm.tokenizer.encode
    for (context, continuation), found in zip(PAIRS, llm.log_likelihoods(PAIRS), strict=True):
        whole = encode(context + continuation)
        n_context = len(encode(context.rstrip()))
        if not n_context:
            whole, n_context = [END_ID, *whole], 1
        wanted_TV = logprobs(witness, whole)[n_context - 1 : -1]
        wanted = [wanted_TV[i, token_id] for i, token_id in enumerate(whole[n_context:])]
        assert found.token_ids == tuple(whole[n_context:])
        assert found.token_logprobs == pytest.approx(wanted, abs=TOLERANCE)
        assert found.logprob == math.fsum(found.token_logprobs)
        assert found.is_greedy == (wanted_TV.argmax(1).tolist() == whole[n_context:])


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(tiny_llm):
    first, second = tiny_llm.log_likelihoods(PAIRS[:2])
    assert first == second
    assert tiny_llm.tokenizer.decode(first.token_ids) == " is hot"


def test_likelihoods_are_the_same_alone_together_and_when_the_context_is_cached(pair):
    llm, _ = pair
    together = llm.log_likelihoods(PAIRS * 2)
    assert together == [llm.log_likelihoods([pair])[0] for pair in PAIRS] * 2
    assert all(isinstance(found, Likelihood) for found in together)


def test_what_greedy_decoding_writes_is_greedy_and_anything_else_is_not(tiny_llm):
    context = "The water in the samovar"
    ids = tiny_llm.generate(context, temperature=0, max_tokens=8, repetition_penalty=1.0).token_ids
    texts = [tiny_llm.tokenizer.decode(ids[:n]) for n in range(1, 9)]
    sound = [  # a continuation that comes back as the same tokens
        (text, n)
        for n, text in enumerate(texts, 1)
        if tiny_llm.tokenizer.encode(context + text) == [*tiny_llm.tokenizer.encode(context), *ids[:n]]
    ]
    assert sound
    for text, n in sound:
        (found,) = tiny_llm.log_likelihoods([(context, text)])
        assert (found.is_greedy, found.token_ids) == (True, ids[:n])
    assert not tiny_llm.log_likelihoods([(context, "zzzz")])[0].is_greedy


def test_more_texts_than_are_handed_in_at_once_come_back_in_their_order(tiny_llm):
    texts = [f"tea {i}" for i in range(300)]
    vectors = tiny_llm.embed(texts)
    for i in (0, 255, 256, 299):
        assert vectors[i].tobytes() == tiny_llm.embed(texts[i]).tobytes()


@pytest.mark.parametrize("process", [False, True])
def test_a_queue_with_few_places_takes_long_lists(tiny_folder, tiny_llm, process):
    llm = LLM(tiny_folder, max_streams=1, max_waiting=1, process=process)
    assert llm.embed(TEXTS * 2).tobytes() == tiny_llm.embed(TEXTS * 2).tobytes()
    assert llm.log_likelihoods(PAIRS) == tiny_llm.log_likelihoods(PAIRS)
    llm.close()


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda m: m.embed([]), "texts"),
        (lambda m: m.embed(None), "texts"),
        (lambda m: m.embed(["a", 5]), "texts"),
        (lambda m: m.embed(""), "prompt"),
        (lambda m: m.embed("a", dimensions=0), "dimensions"),
        (lambda m: m.embed("a", dimensions=65), "dimensions"),
        (lambda m: m.embed("a", dimensions=True), "dimensions"),
        (lambda m: m.embed("a", dimensions=2.0), "dimensions"),
        (lambda m: m.embed("a", tenant=5), "tenant"),
        (lambda m: m.log_likelihoods([("a", "")]), "continuation"),
        (lambda m: m.log_likelihoods([("a", 5)]), "continuation"),
        (lambda m: m.log_likelihoods([(None, "a")]), "context"),
        (lambda m: m.log_likelihoods([("a",)]), "pairs"),
        (lambda m: m.log_likelihoods(["ab"]), "pairs"),
        (lambda m: m.log_likelihoods(5), "pairs"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(tiny_llm, call, param):
    with pytest.raises(BadRequest) as caught:
        call(tiny_llm)
    assert caught.value.param == param


def test_a_text_beyond_the_context_is_refused_and_the_others_of_its_list_stop(tiny_llm):
    with pytest.raises(PromptTooLong, match="512"):
        tiny_llm.embed(["a", "tea " * 600, "b"])
    with pytest.raises(PromptTooLong, match="512"):
        tiny_llm.log_likelihoods([("a", "b"), ("tea " * 600, "a")])
    tiny_llm.settle()
    assert tiny_llm._engine.cache.n_available == tiny_llm._engine.pool.n_pages


def test_a_vocabulary_without_yes_and_no_cannot_rerank(tiny_llm):
    with pytest.raises(BadRequest, match="no single tokens for yes and no"):
        tiny_llm.rerank("q", ["d"])


def test_rerank_refuses_what_is_no_text(llm_with_yes):
    for call, param in (
        (lambda: llm_with_yes.rerank(5, ["a"]), "query"),
        (lambda: llm_with_yes.rerank("a", []), "documents"),
        (lambda: llm_with_yes.rerank("a", [b"x"]), "documents"),
        (lambda: llm_with_yes.rerank("a", ["x"], task=5), "task"),
    ):
        with pytest.raises(BadRequest) as caught:
            call()
        assert caught.value.param == param


def test_a_continuation_that_would_merge_with_its_context_keeps_tokens_of_its_own(tiny_llm):
    tokenizer = tiny_llm.tokenizer
    pairs = [("te", "a"), ("te", "a is"), ("the wat", "er"), ("s", "amovar")]
    for (context, continuation), found in zip(pairs, tiny_llm.log_likelihoods(pairs), strict=True):
        whole = tokenizer.encode(context + continuation)
        n_context = len(tokenizer.encode(context))
        is_clean = whole[:n_context] == tokenizer.encode(context) and len(whole) > n_context
        expected = whole[n_context:] if is_clean else tokenizer.encode(continuation, add_bos=False)
        assert found.token_ids == tuple(expected)
        assert found.logprob < 0
