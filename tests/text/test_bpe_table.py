"""Byte pairs from a mapped table, against the package `tokenizers`."""

import contextlib
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from samovar.formats.cache import CacheStore
from samovar.kernels.byte_pairs import WORDS
from samovar.text import unicode_classes as classes
from samovar.text.bpe_table import ORDINARY, PackageEncoder, TableEncoder
from samovar.text.gguf_vocabulary import LLAMA_3, QWEN_2
from samovar.text.tokenizer import Tokenizer
from samovar.text.unicode_classes import character_classes, compose
from samovar.text.vocabulary import PieceKind
from tests.matrices import slow_but
from tests.text.random_text import random_texts
from tests.text.witnesses import declarations, first_difference, qwen3, qwen3_as_gguf, qwen3_json

FORMS = ["{}", "a\u0315{}\u0300", "a{}\u0327\u0334\u0300", "{}\u0307\u0301", "\U00011935{}", "\u1100{}\u11a8"]
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WITNESS_WORDS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_2), "isolated"), BYTE_LEVEL]),
    "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), BYTE_LEVEL]),
}
TRICKY = [
    "'ſ 'S 'Ll 'lL 'RE 'Ve 'D 'M 'T 'x '", "a  b", "a  1  2", "  \n \n  x", "\r\n\r\n a", " \t\n", "x\n", "!\r\n\n y",
    "1234567 1", " ", "don'tſ", "'ll'll've", "  ", "\n", "\u3000\u3000x", "a\u0085b", "\u200b x", "Ⅷ½٣", " ½",
    "\U00011de0\U00011de1", "'", "''s",
]  # fmt: skip


@cache
def encoders(words: str) -> tuple[TableEncoder, tokenizers.Tokenizer]:
    """Qwen3's pieces and merges under one of the rules for words: ours, and the witness."""
    gguf = qwen3_as_gguf()
    pieces = gguf["tokenizer.ggml.tokens"][:151_643]
    merges = gguf["tokenizer.ggml.merges"]
    looks_up = words == "llama-bpe"
    roles = np.full(len(pieces), ORDINARY, np.uint8)
    ours = TableEncoder.build(pieces, merges, roles, words=words, looks_up_words=looks_up)
    pairs = [tuple(m.split(" ")) for m in merges]
    theirs = tokenizers.Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, pairs, ignore_merges=looks_up))
    theirs.pre_tokenizer = WITNESS_WORDS[words]
    return ours, theirs


def members(pattern: str) -> set[int]:
    """The code points that a regular expression of the witness matches."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed")
    found: set[int] = set()
    for start in range(0, len(CODE_POINTS), 20_000):
        text = "".join(map(chr, CODE_POINTS[start : start + 20_000]))
        found |= set(map(ord, text)) - set(map(ord, "".join(part for part, _ in split.pre_tokenize_str(text))))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "bit"), [(r"\p{L}", classes.LETTER), (r"\p{N}", classes.NUMBER), (r"\s", classes.SPACE)])
def test_every_code_point_is_of_the_class_that_the_witness_gives_it(pattern, bit):
    assert set(np.flatnonzero(character_classes() & bit)) ^ members(pattern) == set()


@pytest.mark.slow
def test_every_code_point_is_a_digit_where_the_witness_splits_it_off():
    digits = pre_tokenizers.Digits(individual_digits=False)
    found = {c for c in CODE_POINTS if len(digits.pre_tokenize_str("x" + chr(c))) == 2}
    assert set(np.flatnonzero(character_classes() & classes.DIGIT)) ^ found == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["{}", "a\u0315{}\u0300", "a{}\u0327\u0334\u0300", "{}\u0307\u0301", "\U00011935{}", "\u1100{}\u11a8"]
)
def test_every_code_point_is_composed_as_the_witness_composes_it(form):
    nfc = normalizers.NFC()
    texts = [form.format(chr(c)) for c in CODE_POINTS]
    assert [t for t in texts if compose(t) != nfc.normalize_str(t)] == []


@pytest.mark.parametrize("words", slow_but(["qwen2"], WORDS))
def test_ids_equal_the_witness_on_random_texts_of_every_rule_for_words(words):
    ours, theirs = encoders(words)
    texts = TRICKY + random_texts(5_000, seed=len(words))
    assert first_difference(texts, ours.encode, lambda t: theirs.encode(t).ids) is None


@pytest.mark.slow
@pytest.mark.parametrize("words", WORDS)
def test_ids_equal_the_witness_in_all_languages(words):
    ours, theirs = encoders(words)
    texts = [path.read_text(encoding="utf-8") for path in declarations()]
    assert first_difference(texts, ours.encode, lambda t: theirs.encode(t).ids) is None


@pytest.mark.slow
@pytest.mark.parametrize("words", WORDS)
def test_ids_equal_the_witness_with_every_code_point_in_several_places(words):
    ours, theirs = encoders(words)
    texts: list[str] = []
    for form in ("{}", "a{}b ", "'{} ", " {}1", "{}\n"):
        texts += ["".join(form.format(chr(c)) for c in CODE_POINTS[at : at + 2000]) for at in range(0, len(CODE_POINTS), 2000)]
    assert first_difference(texts, ours.encode, lambda t: theirs.encode(t).ids) is None


@pytest.mark.parametrize("text", ["a", " ", "\n", "1", "ab", "aaaaab", "Ā", "!", "é ", "\U0001f468"])
def test_a_long_row_of_one_kind_gives_the_ids_of_the_witness(text):
    for words in ("gpt-2", "qwen2"):
        ours, theirs = encoders(words)
        assert ours.encode(text * 3000) == theirs.encode(text * 3000).ids


def test_a_million_equal_letters_are_encoded_at_once():
    ours, _ = encoders("qwen2")
    ids = ours.encode("a" * 1_000_000)
    assert b"".join(map(ours.piece_bytes, ids)) == b"a" * 1_000_000


def test_every_piece_has_the_bytes_of_the_other_encoder():
    ours, theirs = encoders("qwen2")
    other = PackageEncoder(theirs, PieceKind.BYTE_LEVEL)
    assert [i for i in range(151_643) if ours.piece_bytes(i) != other.piece_bytes(i)] == []
    assert ours.piece_bytes(151_643) == b""


def test_a_damaged_table_is_refused_or_gives_wrong_ids_and_never_more():
    ours, _ = encoders("llama-bpe")
    sound, draw = ours.table.copy(), np.random.default_rng(5)
    text = "Every damaged table 123 is tried, été comprise.\n" * 3
    for size in (0, 1, 31, 32, 4096, len(sound) - 16, len(sound) - 1):
        with pytest.raises(ValueError, match="table of byte pairs"):
            TableEncoder(sound[:size].copy())
    for n in range(60):
        table = sound.copy()
        if n < 30:
            table[draw.integers(0, 32)] = draw.integers(0, 256)
        else:
            table[32:] = draw.integers(0, 256, len(table) - 32, np.uint8)
        with contextlib.suppress(ValueError):
            encoder = TableEncoder(table)
            assert all(0 <= i < encoder.n_tokens for i in encoder.encode(text))
            for i in range(0, 151_643, 997):
                encoder.piece_bytes(i)


def same(a: Tokenizer, b: Tokenizer) -> bool:
    def known(t):
        return (t.n_tokens, t.bos_id, t.eos_ids, t.special_tokens, t.control_tokens, t.add_bos, t._vocabulary.control_tokens)

    texts = random_texts(300, seed=8, control_tokens=tuple(a.control_tokens))
    return known(a) == known(b) and [a.encode(t) for t in texts] == [b.encode(t) for t in texts]


@pytest.mark.slow
def test_a_tokenizer_from_the_cache_is_the_one_that_was_put_there(tmp_path):
    cache = CacheStore(tmp_path)
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    made = [Tokenizer.from_tokenizer_json(qwen3_json(), config, cache=cache) for _ in range(2)]
    assert len(cache.entries()) == 1
    assert same(qwen3(), made[1])
    other = Tokenizer.from_tokenizer_json(qwen3_json(), {"eos_token": "<|endoftext|>"}, cache=cache)
    assert other.eos_ids == (151643,)


def test_a_gguf_tokenizer_from_the_cache_needs_no_lists(tmp_path):
    cache = CacheStore(tmp_path)
    first = Tokenizer.from_gguf(qwen3_as_gguf(), identity="1", cache=cache)
    assert same(first, Tokenizer.from_gguf({}, identity="1", cache=cache))
    path = cache.entries()[0].path
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert same(first, Tokenizer.from_gguf(qwen3_as_gguf(), identity="1", cache=cache))


def test_the_package_tokenizers_is_not_imported_with_a_table_in_the_cache(tmp_path):
    Tokenizer.from_tokenizer_json(qwen3_json(), {}, cache=CacheStore(tmp_path))
    code = """if True:
        import sys
        from pathlib import Path
        from samovar.formats.cache import CacheStore
        from samovar.text.tokenizer import Tokenizer
        made = Tokenizer.from_tokenizer_json(Path(sys.argv[1]), {}, cache=CacheStore(Path(sys.argv[2])))
        assert made.decode(made.encode("a<think>é")) == "a<think>é"
        assert "tokenizers" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code, str(qwen3_json()), str(tmp_path)], check=True)


@pytest.mark.slow
def test_without_native_code_the_package_encodes(monkeypatch):
    monkeypatch.setattr("samovar.text.gguf_vocabulary.native_missing_reason", lambda: "no compiler")
    slow = Tokenizer.from_gguf(qwen3_as_gguf())
    assert isinstance(slow._vocabulary.encoder, PackageEncoder)
    monkeypatch.undo()
    assert same(slow, Tokenizer.from_gguf(qwen3_as_gguf()))
