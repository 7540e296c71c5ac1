"""Tokenizers from GGUF metadata against the original tokenizers of the same models."""

import base64
import json
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
import tiktoken

from samovar.errors import FormatError, SamovarError, UnsupportedModel
from samovar.formats.gguf import read_gguf
from samovar.text.tokenizer import Tokenizer
from tests.text.random_text import random_texts
from tests.text.witnesses import declarations, first_difference, package_file, qwen3, qwen3_as_gguf, qwen3_reference

SMOLLM2_TOKENS = Path(__file__).parents[1] / "parity" / "smollm2_tokens.json"
KEY = "tokenizer.ggml."
LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MISTRAL_1 = "data/tokenizer.model.v1"
MISTRAL_3 = "data/mistral_instruct_tokenizer_240323.model.v3"


def byte_level(**changes) -> dict[str, object]:
    """The metadata of a small sound byte-level vocabulary, with changes; None takes a key out."""
    alphabet = [chr(c) for c in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100), *range(0x100, 0x144))]
    tokens = [*alphabet, "Ġa", "ab", "<|im_end|>", "<tool>", "[PAD]"]
    metadata = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [1] * (len(alphabet) + 2) + [3, 4, 5],
        "merges": ["Ġ a", "a b"],
        "eos_token_id": len(alphabet) + 2,
    }
    return {KEY + key: value for key, value in (metadata | changes).items() if value is not None}


@cache
def from_sentencepiece(name: str, *, add_space_prefix: bool = True) -> tuple[Tokenizer, sentencepiece.SentencePieceProcessor]:
    """Our tokenizer from what a conversion to GGUF writes for a SentencePiece model, and that model."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(package_file("mistral_common", name)))
    ids = range(model.get_piece_size())
    metadata = {
        "model": "llama",
        "tokens": [model.id_to_piece(i) for i in ids],
        "scores": [model.get_score(i) for i in ids],
        "token_type": [
            2
            if model.is_unknown(i)
            else 3
            if model.is_control(i)
            else 5
            if model.is_unused(i)
            else 6
            if model.is_byte(i)
            else 1
            for i in ids
        ],
        "bos_token_id": model.bos_id(),
        "eos_token_id": model.eos_id(),
        "unknown_token_id": model.unk_id(),
        "add_space_prefix": add_space_prefix,
    }
    return Tokenizer.from_gguf({KEY + key: value for key, value in metadata.items()}), model


def plain(text: str) -> bool:
    """Whether SentencePiece takes the text as it is: it stops at a zero character."""
    return "\0" not in text


def test_a_qwen3_gguf_gives_the_ids_of_its_tokenizer_json():
    ours = Tokenizer.from_gguf(qwen3_as_gguf())
    reference = qwen3_reference()
    texts = random_texts(300, seed=2, control_tokens=tuple(qwen3().control_tokens))
    assert first_difference(texts, ours.encode, lambda t: reference.encode(t).ids) is None
    assert ours.control_tokens == qwen3().control_tokens
    assert (ours.n_tokens, ours.eos_ids, ours.add_bos) == (151_671, (151_645, 151_643), False)
    assert ours.token_bytes(151_670) == b""
    ids = ours.encode("<|im_end|></think>")
    assert ours.decode(ids, skip_control=True) == "</think>"


@pytest.mark.slow
def test_a_real_qwen_gguf_gives_the_ids_of_the_tokenizer_json_in_all_languages(qwen_coder):
    ours = Tokenizer.from_gguf(read_gguf(qwen_coder).metadata)
    shared = {text for text, i in ours.control_tokens.items() if qwen3().control_tokens[text] == i}
    assert len(shared) == len(ours.control_tokens) == 22
    texts = [path.read_text(encoding="utf-8")[:4000] for path in declarations()] + random_texts(3000, seed=5)
    assert first_difference(texts, ours.encode, qwen3().encode) is None


@pytest.mark.slow
def test_a_real_smollm_gguf_cuts_digits_apart_and_comes_back_as_text(smollm2):
    ours = Tokenizer.from_gguf(read_gguf(smollm2).metadata)
    assert [ours.token_text(i) for i in ours.encode("a 123  x")] == ["a", " ", "1", "2", "3", " ", " x"]
    assert (ours.eos_ids, ours.add_bos) == ((2, 0), False)
    texts = [path.read_text(encoding="utf-8")[:2000] for path in declarations()]
    assert [t[:40] for t in texts if ours.decode(ours.encode(t)) != t] == []


@pytest.mark.slow
def test_a_real_smollm_gguf_gives_the_ids_that_llama_cpp_gave(smollm2):
    ours = Tokenizer.from_gguf(read_gguf(smollm2).metadata)
    stored = dict(json.loads(SMOLLM2_TOKENS.read_text(encoding="ascii")))
    assert len(stored) > 300
    assert first_difference(list(stored), ours.encode, stored.__getitem__) is None


@pytest.mark.parametrize("name", [MISTRAL_1, MISTRAL_3])
def test_sentencepiece_ids_equal_the_original(name):
    ours, model = from_sentencepiece(name)
    texts = [t for t in random_texts(600, seed=4) if t and plain(t)] + [" a", "  a", "\n", "▁a", "a </s> b"]
    encode = lambda t: ours.encode(t, parse_control=False, add_bos=False)  # noqa: E731
    assert first_difference(texts, encode, model.encode) is None
    assert [t for t in texts if ours.decode(encode(t)) != model.decode(model.encode(t))] == []


@pytest.mark.slow
def test_sentencepiece_ids_equal_the_original_in_all_languages():
    ours, model = from_sentencepiece(MISTRAL_3)
    texts = [path.read_text(encoding="utf-8") for path in declarations()]
    assert first_difference(texts, lambda t: ours.encode(t, add_bos=False), model.encode) is None


def test_sentencepiece_adds_bos_and_matches_control_tokens():
    ours, model = from_sentencepiece(MISTRAL_1)
    assert ours.encode("a") == [1, *model.encode("a")]
    assert ours.encode("a</s>b", add_bos=False) == [*model.encode("a"), 2, *model.encode("b")]
    assert ours.decode(ours.encode("a</s>b"), skip_control=True) == "a b"
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def test_a_text_that_goes_on_keeps_its_first_space():
    ours, model = from_sentencepiece(MISTRAL_1)
    (token_id,) = model.encode("Paris")
    assert ours.decode([token_id]) == "Paris"
    goes_on = ours.detokenizer(is_continuation=True)
    assert goes_on.push(token_id) + goes_on.finish() == " Paris"


def test_without_space_prefix_nothing_is_added_or_dropped():
    ours, model = from_sentencepiece(MISTRAL_1, add_space_prefix=False)
    assert ours.encode(" the", add_bos=False) == model.encode("the")
    assert ours.decode(model.encode("the")) == " the"


@cache
def llama3_ranks() -> dict[bytes, int]:
    lines = package_file("llama_models", "llama3/tokenizer.model").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


LETTERS = {b: chr(b) for b in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))}
LETTERS |= {b: chr(0x100 + n) for n, b in enumerate(b for b in range(256) if b not in LETTERS)}


def spelled(token: bytes) -> str:
    """In GPT-2's characters for bytes."""
    return "".join(map(LETTERS.__getitem__, token))


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """All pairs that tokens can be merged from, as the conversion of Llama 3 lists them."""
    merges = []
    for token, rank in ranks.items():
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += [(rank, ranks[left], ranks[right], left, right) for left, right in pairs]
    return [(left, right) for _, _, _, left, right in sorted(merges)]


@pytest.mark.slow
def test_llama_3_ids_equal_the_original():
    ranks = llama3_ranks()
    reference = tiktoken.Encoding(
        "llama3",
        pat_str=LLAMA_3_WORDS,
        mergeable_ranks=ranks,
        special_tokens={"<|begin_of_text|>": 128000, "<|eot_id|>": 128009},
    )
    specials = ["<|begin_of_text|>", *(f"<|reserved_{i}|>" for i in range(8)), "<|eot_id|>"]
    ours = Tokenizer.from_gguf({
        KEY + "model": "gpt2",
        KEY + "pre": "llama-bpe",
        KEY + "tokens": [*map(spelled, ranks), *specials],
        KEY + "token_type": [1] * len(ranks) + [3] * len(specials),
        KEY + "merges": [f"{spelled(a)} {spelled(b)}" for a, b in merges_of(ranks)],
        KEY + "bos_token_id": 128000,
        KEY + "eos_token_id": 128009,
    })  # fmt: skip
    texts = random_texts(5000, seed=6) + [path.read_text(encoding="utf-8") for path in declarations()[::10]]
    assert first_difference(texts, ours.encode, lambda t: [128000, *reference.encode_ordinary(t)]) is None
    assert ours.encode("a<|eot_id|>", add_bos=False) == [*reference.encode_ordinary("a"), 128009]


# As published in tiktoken (o200k_base).
GPT_4O_WORDS = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tekken", "gpt-4o"])
def test_words_of_mistral_nemo_and_of_phi_4_are_cut_as_in_the_original(name):
    """Over Mistral Nemo's vocabulary: 1,000 control tokens, then byte pairs by rank."""
    source = json.loads(package_file("mistral_common", "data/tekken_240911.json").read_text(encoding="utf-8"))
    n_control = source["config"]["default_num_special_tokens"]
    n_ranks = source["config"]["default_vocab_size"] - n_control
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in source["vocab"][:n_ranks]}
    words = source["config"]["pattern"] if name == "tekken" else GPT_4O_WORDS
    reference = tiktoken.Encoding(name, pat_str=words, mergeable_ranks=ranks, special_tokens={})
    ours = Tokenizer.from_gguf({
        KEY + "model": "gpt2",
        KEY + "pre": name,
        KEY + "tokens": [*(f"<SPECIAL_{i}>" for i in range(n_control)), *map(spelled, ranks)],
        KEY + "token_type": [3] * n_control + [1] * len(ranks),
        KEY + "merges": [f"{spelled(a)} {spelled(b)}" for a, b in merges_of(ranks)],
        KEY + "bos_token_id": 1,
        KEY + "eos_token_id": 2,
    })  # fmt: skip
    before = [1] if name == "tekken" else []
    texts = random_texts(2000, seed=7) + [path.read_text(encoding="utf-8") for path in declarations()[::40]]
    texts += ["HelloWorld's 12345  x\n\n\tI'VE don't aB'S", "// \r\n/ path/to"]
    expected = lambda t: [*before, *(i + n_control for i in reference.encode_ordinary(t))]  # noqa: E731
    assert first_difference(texts, ours.encode, expected) is None


def test_what_the_small_vocabulary_holds():
    ours = Tokenizer.from_gguf(byte_level())
    assert [ours.token_text(i) for i in ours.encode("ab a<tool>[PAD]")] == ["ab", " a", "<tool>", "[", "P", "A", "D", "]"]
    assert ours.control_tokens == {"<|im_end|>": 258, "<tool>": 259}


BAD = {
    "no model": ({"model": None}, UnsupportedModel, "model is nothing"),
    "unknown model": ({"model": "bert"}, UnsupportedModel, "model is 'bert'"),
    "unknown pre": ({"pre": "viking"}, UnsupportedModel, "pre is 'viking'"),
    "no pre": ({"pre": None}, UnsupportedModel, "pre is missing"),
    "charsmap": ({"precompiled_charsmap": [1]}, UnsupportedModel, "precompiled_charsmap"),
    "no tokens": ({"tokens": None}, FormatError, "tokens is missing"),
    "tokens text": ({"tokens": "abc"}, FormatError, "tokens is a str"),
    "tokens numbers": ({"tokens": [1, 2]}, FormatError, "tokens holds a int"),
    "no types": ({"token_type": None}, FormatError, "token_type is missing"),
    "types short": ({"token_type": [1, 1]}, FormatError, "token_type has 2 entries"),
    "types out of range": ({"token_type": [1] * 260 + [9]}, FormatError, "token_type has 9"),
    "no merges": ({"merges": []}, FormatError, "merges is empty"),
    "merge of one": ({"merges": ["a b", "ab"]}, FormatError, "number 1 is 'ab'"),
    "merge of three": ({"merges": ["a b c"]}, FormatError, "number 0 is 'a b c'"),
    "merge unknown": ({"merges": ["a c"]}, FormatError, "merges do not fit"),
    "eos range": ({"eos_token_id": 261}, FormatError, "eos_token_id is 261"),
    "eos text": ({"eos_token_id": "2"}, FormatError, "eos_token_id is a str"),
    "bos missing": ({"add_bos_token": True}, FormatError, "add_bos_token is true"),
    "flag number": ({"add_bos_token": 1}, FormatError, "add_bos_token is a int"),
    "no scores": ({"model": "llama"}, FormatError, "scores is missing"),
    "scores short": ({"model": "llama", "scores": [0.0]}, FormatError, "scores has 1 entries"),
    "no bytes": ({"model": "llama", "scores": [0.0] * 261}, UnsupportedModel, "no token for byte 0x00"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_metadata_that_is_not_sound_is_refused_by_name(name):
    changes, error, message = BAD[name]
    with pytest.raises(error, match=rf"^a\.gguf: tokenizer\.ggml\..*{message}"):
        Tokenizer.from_gguf(byte_level(**changes), origin="a.gguf")


def test_a_token_that_appears_twice_is_refused():
    metadata = byte_level()
    metadata[KEY + "tokens"] = [*metadata[KEY + "tokens"][:-1], "ab"]
    with pytest.raises(FormatError, match="'ab' twice"):
        Tokenizer.from_gguf(metadata)


def test_no_metadata_at_all_is_refused():
    with pytest.raises(SamovarError, match="model is nothing"):
        Tokenizer.from_gguf({})
