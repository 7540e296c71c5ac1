"""What sentence-transformers writes beside a model, in the forms of its versions 2 to 5."""

import json

import pytest

from samovar.errors import FormatError, ModelNotFound, UnsupportedModel
from samovar.formats.sentence_files import SentenceFiles, read_sentence_files

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
