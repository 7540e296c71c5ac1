"""What sentence-transformers writes beside a model, in the forms of its versions 2 to 5."""

import json

import pytest

from samovar.errors import FormatError, ModelNotFound, UnsupportedModel
from samovar.formats.gguf import read_gguf
from samovar.formats.gguf_writer import write_gguf
from samovar.formats.sentence_files import SentenceFiles, read_sentence_files, sentence_texts
from samovar.formats.sentence_keys import read_sentence_keys, sentence_keys

OLD = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
NEW = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
]
OLD_POOLING = {"word_embedding_dimension": 4, "pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}


def write(folder, modules, **files):
    (folder / "modules.json").write_text(json.dumps(modules))
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(content))
    return folder


def test_a_folder_without_modules_has_none(tmp_path):
    assert read_sentence_files(tmp_path) is None


def test_both_forms_of_pooling_are_read(tmp_path):
    prompts = {"prompts": {"query": "q: ", "document": None}, "default_prompt_name": "query", "similarity_fn_name": "cosine"}
    old = write(tmp_path, OLD, **{"1_Pooling__config": OLD_POOLING, "config_sentence_transformers": prompts,
                                  "sentence_bert_config": {"max_seq_length": 512, "do_lower_case": False}})  # fmt: skip
    assert read_sentence_files(old) == SentenceFiles(
        pooling="lasttoken",
        is_normalised=True,
        prompts={"query": "q: ", "document": ""},
        default_prompt="query",
        max_tokens=512,
    )
    for mode in ("mean", ["mean"]):
        (tmp_path / "new").mkdir(exist_ok=True)
        new = write(tmp_path / "new", NEW, **{"1_Pooling__config": {"embedding_dimension": 4, "pooling_mode": mode}})
        assert read_sentence_files(new) == SentenceFiles(pooling="mean", is_normalised=False)


def test_the_tokens_of_a_reranker_are_read(tmp_path):
    modules = [NEW[0], {"path": "1_LogitScore", "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"}]
    write(tmp_path, modules, **{"1_LogitScore__config": {"true_token_id": 9693, "false_token_id": 2152}})
    assert read_sentence_files(tmp_path) == SentenceFiles(pooling=None, is_normalised=False, score_ids=(9693, 2152))
    write(tmp_path, modules, **{"1_LogitScore__config": {"true_token_id": 9693}})
    with pytest.raises(UnsupportedModel, match="false_token_id None"):
        read_sentence_files(tmp_path)


@pytest.mark.parametrize(
    ("modules", "pooling", "error", "message"),
    [
        ({}, OLD_POOLING, FormatError, "a list of modules"),
        ([], OLD_POOLING, FormatError, "a list of modules"),
        ([5], OLD_POOLING, FormatError, "unsound"),
        ([{**OLD[0], "path": "/etc"}], OLD_POOLING, FormatError, "unsound"),
        ([OLD[1], OLD[0]], OLD_POOLING, UnsupportedModel, "expected a Transformer first"),
        ([*OLD, OLD[1]], OLD_POOLING, UnsupportedModel, "are not implemented"),
        ([*OLD, {"path": "3", "type": "x.Dense"}], OLD_POOLING, UnsupportedModel, "'Dense'"),
        (OLD, {}, FormatError, r"pooling modes are \[\]"),
        (OLD, {"pooling_mode": "best"}, FormatError, "expected one of cls"),
        (OLD, {**OLD_POOLING, "pooling_mode_cls_token": True}, FormatError, r"\['cls', 'lasttoken'\]"),
        (OLD, None, ModelNotFound, "1_Pooling"),
    ],
)
def test_what_is_unsound_or_unknown_is_refused_by_name(tmp_path, modules, pooling, error, message):
    write(tmp_path, modules, **({} if pooling is None else {"1_Pooling__config": pooling}))
    with pytest.raises(error, match=message):
        read_sentence_files(tmp_path)


WHOLE = SentenceFiles(
    pooling="lasttoken",
    is_normalised=True,
    prompts={"query": "q: ", "document": "", "ä": "\n"},
    default_prompt="query",
    max_tokens=512,
)
SCORER = SentenceFiles(pooling=None, is_normalised=False, score_ids=(9693, 2152))


@pytest.mark.parametrize("files", [WHOLE, SCORER, SentenceFiles(pooling="lasttoken", is_normalised=False)])
def test_what_is_written_into_a_folder_or_a_gguf_file_is_read_again(files, tmp_path):
    for name, text in sentence_texts(files, 4).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_sentence_files(tmp_path) == files
    write_gguf(tmp_path / "m.gguf", {"general.architecture": "x", **sentence_keys(files)}, [])
    assert read_sentence_keys(read_gguf(tmp_path / "m.gguf").metadata, files.pooling, "m.gguf") == files


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"colour": "red"}, r"m.gguf: sentence_transformers.colour is 'red'; known are prompt_names"),
        ({"max_seq_length": "12"}, "max_seq_length is '12'; expected int"),
        ({"max_seq_length": 0}, "expected a length, and two ids"),
        ({"true_token_id": 5}, "true_token_id and false_token_id are 5 and None"),
        ({"prompt_names": ["query"]}, "1 names of prompts, 0 texts"),
        ({"prompt_names": ["query"], "prompt_texts": [1]}, "expected a list of texts"),
        ({"is_normalised": True, "default_prompt_name": "query"}, "the default is 'query'"),
    ],
)
def test_keys_that_are_unsound_or_not_known_are_refused_by_name(keys, message):
    with pytest.raises(FormatError, match=message):
        read_sentence_keys({f"sentence_transformers.{key}": value for key, value in keys.items()}, None, "m.gguf")


def test_a_file_without_the_keys_says_nothing():
    assert read_sentence_keys({"general.architecture": "qwen3"}, "lasttoken", "m.gguf") is None
