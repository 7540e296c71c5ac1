"""The stored digests, control tokens and ids against the official tokenizer, and the same from both formats."""

import json
from dataclasses import replace

import pytest
import tokenizers

from samovar.doctor.check_tokenizer import hard_strings, open_tokenizer
from samovar.doctor.finding import Status
from samovar.doctor.raw_vocabulary import Role, read_raw_vocabulary
from samovar.doctor.token_tables import TOKEN_TABLES, vocabulary_digest
from samovar.formats.gguf import read_gguf
from tests.doctor.claimed import folder_model, gguf_model, lines, report_on
from tests.parity.make_hard_strings import ADDED_BY_QWEN3, TEXTS, qwen
from tests.text.witnesses import qwen3_json, qwen3_reference

QWEN3 = TOKEN_TABLES["qwen3"]


def test_the_stored_table_of_qwen3_is_that_of_the_official_tokenizer():
    source = json.loads(qwen3_json().read_text(encoding="utf-8"))
    added = source["added_tokens"]
    assert {t["id"]: t["content"] for t in added} == QWEN3.control
    assert {t["id"] for t in added if t["special"]} == QWEN3.special
    assert len(source["model"]["vocab"]) == QWEN3.n_pieces


def test_the_digest_is_the_same_from_both_formats():
    for made in (gguf_model("Qwen3-0.6B"), folder_model("Qwen3-0.6B")):
        raw = read_raw_vocabulary(made)
        assert vocabulary_digest([raw.pieces[i] for i in range(QWEN3.n_pieces)], raw.merges) == QWEN3.digest


def test_the_digest_sees_the_order_of_pieces_and_merges():
    digests = {vocabulary_digest(p, m) for p in (["a", "b"], ["b", "a"], ["a"]) for m in (["a b"], ["b a"], [])}
    assert len(digests) == 9


@pytest.mark.slow
def test_200_hard_texts_have_the_ids_that_the_package_tokenizers_gives():
    rows = hard_strings()
    assert [row["text"] for row in rows] == list(TEXTS)
    assert len(rows) == 200
    reference = qwen3_reference()
    for row in rows:
        assert row["qwen3"] == reference.encode(row["text"], add_special_tokens=False).ids, ascii(row["text"])


@pytest.mark.slow
def test_the_ids_for_qwen2_5_are_those_of_qwen3_without_the_tokens_it_added():
    reference = qwen(but=ADDED_BY_QWEN3)
    differing = 0
    for row in hard_strings():
        assert row["qwen2.5"] == reference.encode(row["text"], add_special_tokens=False).ids
        differing += row["qwen2.5"] != row["qwen3"]
    assert differing >= 4


@pytest.mark.slow
@pytest.mark.parametrize(("fixture", "name"), [("smollm2", "smollm2"), ("qwen_coder", "qwen2.5")])
def test_the_tables_of_the_other_releases_are_those_of_real_files(fixture, name, request):
    made = replace(gguf_model("Qwen3-0.6B"), metadata=read_gguf(request.getfixturevalue(fixture)).metadata)
    raw, table = read_raw_vocabulary(made), TOKEN_TABLES[name]
    assert vocabulary_digest([raw.pieces[i] for i in range(table.n_pieces)], raw.merges) == table.digest
    assert {i: raw.pieces[i] for i, role in raw.roles.items() if role is not Role.UNUSED} == table.control


def changed_tokenizer(folder, change):
    """A folder's model with an edited tokenizer.json."""
    source = json.loads(qwen3_json().read_text(encoding="utf-8"))
    change(source)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(source))
    return replace(folder_model("Qwen3-0.6B"), tokenizer_json=path)


def lose_nfc(source):
    source["normalizer"] = None


def flag_think(source):
    next(t for t in source["added_tokens"] if t["content"] == "<think>")["special"] = True


def flag_fim(source):
    next(t for t in source["added_tokens"] if t["content"] == "<|fim_pad|>")["special"] = True


def flag_by_look(source):
    """As converters to GGUF do, and folders that are made from GGUF have it."""
    for token in source["added_tokens"]:
        token["special"] = token["special"] or token["content"].startswith("<|")


def group_digits(source):
    pattern = source["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    pattern["Regex"] = pattern["Regex"].replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lose_nfc, {"tokenizer: normaliser", "tokenizer: hard texts"}),
        (flag_think, {"tokens: special flags"}),
        (flag_fim, {"tokens: special flags"}),
        (flag_by_look, set()),
        (group_digits, {"tokenizer: rule for words"}),  # no merge of the vocabulary joins digits, so ids stay
    ],
)
def test_an_edited_tokenizer_json_is_caught_by_the_right_lines(tmp_path, change, expected):
    assert lines(report_on(changed_tokenizer(tmp_path, change)), Status.FAIL) == expected


@pytest.mark.slow
def test_a_folder_whose_tokens_are_special_as_in_gguf_passes_with_a_word_on_them(tmp_path):
    made = changed_tokenizer(tmp_path, flag_by_look)
    fim = {"151659": {"content": "<|fim_prefix|>", "special": True}}  # as transformers saves it again
    made = replace(made, tokenizer_config={**made.tokenizer_config, "added_tokens_decoder": fim})
    (flags,) = [f for f in report_on(made).findings if f.what == "special flags"]
    assert flags.status is Status.PASS
    assert "6 that are special as in GGUF files: <|fim_prefix|>" in flags.found
    assert "made from GGUF" in flags.advice


@pytest.mark.slow
def test_an_end_token_that_a_post_processor_appends_is_seen(tmp_path):
    reference = tokenizers.Tokenizer.from_file(str(qwen3_json()))
    reference.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 151_643)]
    )
    path = tmp_path / "tokenizer.json"
    reference.save(str(path))
    made = replace(folder_model("Qwen3-0.6B"), tokenizer_json=path)
    assert lines(report_on(made), Status.FAIL) == {"tokens: added around texts"}
    embedding = replace(made, names=(("the folder's name", "Qwen3-Embedding-4B"),))
    assert "tokens: added around texts" in lines(report_on(embedding, open_model=lambda: None, asked="Qwen3-0.6B"), Status.FAIL)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": {"vocab": 3}}', b"\xff\xfe", b'{"model": null}'])
def test_a_file_that_is_no_tokenizer_is_a_finding_and_no_crash(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    made = replace(folder_model("Qwen3-0.6B"), tokenizer_json=path)
    opened = open_tokenizer(made)
    assert opened.raw is None
    assert opened.problem
    assert "tokenizer: vocabulary" in lines(report_on(made), Status.FAIL)
