"""The tokenizer against the package `tokenizers` on the same file."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from samovar.errors import BadRequest, FormatError, ModelNotFound, UnsupportedModel
from samovar.text.rendered_prompt import RenderedPrompt
from samovar.text.tokenizer import Tokenizer
from tests.text.random_text import random_texts
from tests.text.witnesses import QWEN3_CONTROL_TOKENS, declarations, first_difference, qwen3, qwen3_reference

CORPUS = ["the cat sat on the mat", "she sells <b> sea shells", "été à la plage, 12 345 fois", "don't <mask> me now"] * 20


def small_tokenizer(normalizer=None, added=(), post=None) -> tokenizers.Tokenizer:
    """A byte-level tokenizer of a few hundred tokens."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_tokens(list(added))
    if post is not None:
        made.post_processor = post(made)
    return made


def reread(made: tokenizers.Tokenizer, folder: Path, config=None) -> Tokenizer:
    made.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_tokenizer_json(folder / "tokenizer.json", config or {})


def test_qwen3_ids_equal_the_reference_on_random_texts_with_control_tokens():
    ours, reference = qwen3(), qwen3_reference()
    texts = random_texts(800, seed=1, control_tokens=tuple(ours.control_tokens))
    assert first_difference(texts, ours.encode, lambda t: reference.encode(t).ids) is None


@pytest.mark.slow
def test_qwen3_ids_equal_the_reference_on_20000_random_texts():
    reference = qwen3_reference()
    texts = random_texts(20_000, seed=20_000)
    assert first_difference(texts, qwen3().encode, lambda t: reference.encode(t).ids) is None


@pytest.mark.slow
def test_qwen3_ids_equal_the_reference_in_all_languages_and_come_back_as_text():
    ours, reference = qwen3(), qwen3_reference()
    nfc = normalizers.NFC()
    texts = [path.read_text(encoding="utf-8") for path in declarations()]
    assert len(texts) > 500
    assert first_difference(texts, ours.encode, lambda t: reference.encode(t).ids) is None
    assert [t[:50] for t in texts if ours.decode(ours.encode(t)) != nfc.normalize_str(t)] == []


def test_qwen3_describes_itself():
    ours = qwen3()
    assert (ours.n_tokens, ours.bos_id, ours.eos_id, ours.eos_ids, ours.add_bos) == (151669, None, 151645, (151645,), False)
    assert tuple(ours.control_tokens) == QWEN3_CONTROL_TOKENS
    assert ours.control_tokens["</think>"] == 151668
    assert ours.special_tokens == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert ours.is_control(151644)
    assert not ours.is_control(100)


def test_every_token_of_qwen3_has_the_bytes_the_reference_decodes():
    ours, reference = qwen3(), qwen3_reference()
    for token_id in [*range(0, 151_643, 37), *range(151_643, 151_669)]:
        assert ours.token_text(token_id) == reference.decode([token_id], skip_special_tokens=False)


def test_ids_that_only_pad_the_embedding_are_no_text():
    assert qwen3().decode([151_669, 151_935]) == ""
    with pytest.raises(BadRequest, match="token id 10000000 is not in the vocabulary; expected 0 to 151668"):
        qwen3().decode([10**7])
    with pytest.raises(BadRequest, match="a NoneType was given to encode"):
        qwen3().encode(None)
    with pytest.raises(BadRequest, match="token id -1 is negative"):
        qwen3().token_bytes(-1)


def test_decoding_can_leave_special_tokens_out_and_keeps_think_tags():
    ours = qwen3()
    ids = ours.encode("<|im_start|><think>a</think><tool_call><|im_end|>")
    assert ours.decode(ids) == "<|im_start|><think>a</think><tool_call><|im_end|>"
    assert ours.decode(ids, skip_control=True) == "<think>a</think><tool_call>"


def test_control_tokens_are_ordinary_text_where_they_are_not_parsed():
    ours = qwen3()
    for text in ours.control_tokens:
        ids = ours.encode(f"a{text}b", parse_control=False)
        assert not any(map(ours.is_control, ids))
        assert ours.decode(ids) == f"a{text}b"


def test_protected_spans_stay_text_and_the_rest_is_parsed():
    ours = qwen3()
    for token, token_id in ours.control_tokens.items():
        text = f"{token}x {token} y{token}{token}"
        start = text.index(token, 1)
        ids = ours.encode_rendered(RenderedPrompt(text=text, plain_spans=((start, start + len(token)),)))
        assert ids.count(token_id) == 3
        middle = ours.encode(text[len(token) : -2 * len(token)], parse_control=False)
        assert ids == [token_id, *middle, token_id, token_id]


def test_a_token_that_only_touches_a_protected_span_is_text():
    ours = qwen3()
    text = "<think>"
    assert ours.encode_rendered(RenderedPrompt(text=text, plain_spans=((1, 3),))) == ours.encode(text, parse_control=False)


def test_rendered_text_gets_nothing_added_before_or_after(tmp_path):
    made = small_tokenizer(added=[AddedToken("<s>", special=True)], post=lambda t: bos_and_eos(t, "<s>:0 $A:0 <s>:0"))
    ours = reread(made, tmp_path, {"bos_token": "<s>"})
    assert ours.encode("cat") == made.encode("cat").ids
    assert ours.encode("cat")[0] == ours.encode("cat")[-1] == ours.bos_id
    assert ours.add_bos
    assert ours.encode_rendered(RenderedPrompt(text="cat")) == ours.encode("cat", add_bos=False) == ours.encode("cat")[1:-1]
    assert ours.encode("cat", add_bos=True) == ours.encode("cat")[:-1]


def bos_and_eos(made: tokenizers.Tokenizer, form: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=form, special_tokens=[("<s>", made.token_to_id("<s>"))])


FLAGS = [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"lstrip": True, "rstrip": True}, {"normalized": True}, {}]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.Lowercase(), normalizers.Prepend("x")], ids=str)
def test_added_tokens_are_matched_by_the_rules_of_their_flags(tmp_path, flags, normalizer):
    names = ["<MASK>", "<mask><MASK>", "mask", "é"]
    made = small_tokenizer(normalizer, [AddedToken(n, **{"normalized": False, **flags}) for n in names])
    ours = reread(made, tmp_path)
    texts = [
        t.replace("#", n)
        for n in names
        for t in ("#", "a # b", "a  #\n\n b", "a# b", "##", " # # ", "_#", "x#\u0301", "e\u0301#")
    ]
    texts += random_texts(300, seed=3, control_tokens=(*names, "<mask>", "MASK"))
    assert first_difference(texts, ours.encode, lambda t: made.encode(t).ids) is None


def test_normalized_tokens_can_be_protected(tmp_path):
    made = small_tokenizer(normalizers.Lowercase(), [AddedToken("<mask>", normalized=True)])
    ours = reread(made, tmp_path)
    mask = ours.control_tokens["<mask>"]
    assert ours.encode_rendered(RenderedPrompt(text="<MASK>a<mask>", plain_spans=((7, 13),))).count(mask) == 1
    assert ours.encode_rendered(RenderedPrompt(text="<MASK>a<mask>")).count(mask) == 2


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_a_prefix_space_comes_where_the_reference_puts_it(tmp_path, scheme):
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False))
    made.add_special_tokens([AddedToken("<s>", special=True)])
    ours = reread(made, tmp_path)
    texts = ["the cat", " the cat", "▁the", "<s>the cat<s> sat", "the<s>cat", " <s>", ""]
    assert first_difference(texts, ours.encode, lambda t: made.encode(t).ids) is None
    for text in texts:
        ids = made.encode(text).ids
        assert ours.decode(ids) == made.decode(ids, skip_special_tokens=False)


def test_a_tokenizer_in_the_style_of_llama_2_gives_the_ids_of_the_reference(tmp_path):
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    source = json.loads(made.to_str())
    source["added_tokens"] = source["added_tokens"][:3]  # byte pieces are ordinary ones
    made = tokenizers.Tokenizer.from_str(json.dumps(source))
    made.post_processor = bos_and_eos(made, "<s>:0 $A:0")
    ours = reread(made, tmp_path, {"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    texts = [*random_texts(400, seed=8, control_tokens=("<s>", "</s>")), "", " ", "the cat</s> sat</s>on", "東京 🙂"]
    assert first_difference(texts, ours.encode, lambda t: made.encode(t).ids) is None
    for text in texts:
        ids = made.encode(text).ids
        assert ours.decode(ids) == made.decode(ids, skip_special_tokens=False)
        assert ours.decode(ids, skip_control=True) == made.decode(ids, skip_special_tokens=True)


def test_a_tokenizer_in_the_style_of_llama_3_gives_the_ids_of_the_reference(tmp_path):
    made = small_tokenizer(added=[AddedToken("<s>", special=True)])
    made.model.ignore_merges = True
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(r"\p{L}+|\s+|."), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos_and_eos(made, "<s> $A")])
    ours = reread(made, tmp_path, {"bos_token": "<s>"})
    texts = [*random_texts(300, seed=9, control_tokens=("<s>",)), "", "the cat"]
    assert first_difference(texts, ours.encode, lambda t: made.encode(t).ids) is None
    assert ours.bos_id == ours.encode("")[0]


def test_half_a_surrogate_pair_is_refused_with_its_place():
    with pytest.raises(BadRequest, match=r"U\+D83D at character 2"):
        qwen3().encode("ab\ud83d")


def test_empty_text_is_no_token():
    assert qwen3().encode("") == qwen3().encode("", parse_control=False) == []
    assert qwen3().decode([]) == ""


def test_truncation_and_padding_of_the_file_are_not_applied(tmp_path):
    made = small_tokenizer()
    whole = made.encode("the cat sat on the mat").ids
    made.enable_truncation(2)
    made.enable_padding(length=50)
    assert reread(made, tmp_path).encode("the cat sat on the mat") == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no sound tokenizer.json"),
        (b"{}", "no sound tokenizer.json"),
        (b"\xff\xfe", "no sound tokenizer.json"),
        (b"[1]", "no sound"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        Tokenizer.from_tokenizer_json(path, {})
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json: no such file"):
        Tokenizer.from_tokenizer_json(tmp_path / "tokenizer.json", {})


def altered(tmp_path: Path, **parts) -> Path:
    made = small_tokenizer()
    source = json.loads(made.to_str()) | parts
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(source), encoding="utf-8")
    return path


def test_kinds_that_are_not_implemented_are_refused_by_name(tmp_path):
    unigram = altered(tmp_path, model={"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]})
    with pytest.raises(UnsupportedModel, match="Unigram"):
        Tokenizer.from_tokenizer_json(unigram, {})
    wordpiece = altered(tmp_path, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})
    with pytest.raises(UnsupportedModel, match=r"decoder.*WordPiece"):
        Tokenizer.from_tokenizer_json(wordpiece, {})
    bert = altered(tmp_path, post_processor={"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]})
    with pytest.raises(UnsupportedModel, match="BertProcessing"):
        Tokenizer.from_tokenizer_json(bert, {})


def test_settings_that_contradict_the_vocabulary_are_refused(tmp_path):
    made = small_tokenizer(added=[AddedToken("<s>", special=True)], post=lambda t: bos_and_eos(t, "<s>:0 $A:0"))
    path = tmp_path / "tokenizer.json"
    source = json.loads(made.to_str())
    path.write_text(json.dumps(source), encoding="utf-8")
    number = str(made.token_to_id("<s>"))
    assert Tokenizer.from_tokenizer_json(path, {"added_tokens_decoder": {number: {"content": "<s>"}}}).add_bos
    for key, text in ((number, "<t>"), ("3", "<s>")):
        with pytest.raises(FormatError, match=f"added token {key} is '{text}'"):
            Tokenizer.from_tokenizer_json(path, {"added_tokens_decoder": {key: {"content": text}}})
    source["post_processor"]["special_tokens"] = {}
    path.write_text(json.dumps(source), encoding="utf-8")
    with pytest.raises(FormatError, match="post-processor adds '<s>'"):
        Tokenizer.from_tokenizer_json(path, {})


def test_a_special_token_that_the_vocabulary_lacks_is_refused(tmp_path):
    with pytest.raises(FormatError, match="'<nothing>', the eos_token"):
        Tokenizer.from_tokenizer_json(altered(tmp_path), {"eos_token": {"content": "<nothing>"}})
    with pytest.raises(FormatError, match="bos_token is 7"):
        Tokenizer.from_tokenizer_json(altered(tmp_path), {"bos_token": 7})
