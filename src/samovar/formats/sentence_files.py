"""The files that sentence-transformers writes beside a model: what its states are made into, and what goes before a text.

Read are `modules.json` with the configs of the modules that it lists, `config_sentence_transformers.json` and
`sentence_bert_config.json`, in the forms of sentence-transformers 2 to 5. A module that is not known is refused by name.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.json_object import parse_json_object, read_json_object, read_limited

MODULES: Final = "modules.json"
_PROMPTS: Final = "config_sentence_transformers.json"
_LENGTHS: Final = "sentence_bert_config.json"
_MAX_BYTES: Final = 1 << 20
_FOLDER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_OLD_MODES: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceFiles:
    """What the files say. `pooling` is how one vector comes of many states, None where none does; `is_normalised` whether it is
    made of length 1. `score_ids` are the tokens (yes, no) whose logits a reranker compares. `prompts` go before a text, by
    name; `default_prompt` is the one that is used where nobody names any. `max_tokens` bounds a text.
    """

    pooling: str | None
    is_normalised: bool
    score_ids: tuple[int, int] | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_tokens: int | None = None


def read_sentence_files(folder: Path) -> SentenceFiles | None:
    """What the folder's files say; None where there is no modules.json. Raises FormatError for damage, UnsupportedModel for
    modules that are not computed."""
    if not (folder / MODULES).exists():
        return None
    pooling, score_ids, is_normalised = None, None, False
    for kind, path in _modules(folder / MODULES):
        if kind == "Pooling":
            pooling = _pooling(folder / path / "config.json")
        elif kind == "LogitScore":
            score_ids = _score_ids(folder / path / "config.json")
        elif kind == "Normalize":
            is_normalised = True
        elif kind != "Transformer":
            raise UnsupportedModel(
                f"{folder / MODULES}: module {kind!r} is not implemented; expected Transformer, Pooling, Normalize "
                "or LogitScore"
            )
    prompts, default = _prompts(folder / _PROMPTS)
    return SentenceFiles(
        pooling=pooling,
        is_normalised=is_normalised,
        score_ids=score_ids,
        prompts=prompts,
        default_prompt=default,
        max_tokens=_max_tokens(folder / _LENGTHS),
    )


def sentence_texts(files: SentenceFiles, d_model: int) -> dict[str, str]:
    """The files' texts by their paths in the folder, in a form that each version of sentence-transformers reads."""
    said: dict[str, object] = {}
    kinds = [("", "models.Transformer")]
    if files.pooling is not None:
        modes = {key: mode == files.pooling for key, mode in _OLD_MODES.items()}
        kinds.append(("1_Pooling", "models.Pooling"))
        said["1_Pooling/config.json"] = {"word_embedding_dimension": d_model, **modes, "include_prompt": True}
    if files.is_normalised:
        kinds.append((f"{len(kinds)}_Normalize", "models.Normalize"))
    if files.score_ids is not None:
        place = f"{len(kinds)}_LogitScore"
        kinds.append((place, "cross_encoder.modules.logit_score.LogitScore"))
        said[f"{place}/config.json"] = dict(zip(("true_token_id", "false_token_id"), files.score_ids, strict=True))
    said[MODULES] = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    if files.pooling is not None or files.prompts:
        said[_PROMPTS] = {
            "prompts": dict(files.prompts), "default_prompt_name": files.default_prompt, "similarity_fn_name": "cosine"
        }  # fmt: skip
    if files.max_tokens is not None:
        said[_LENGTHS] = {"max_seq_length": files.max_tokens, "do_lower_case": False}
    return {path: json.dumps(value, indent=2, ensure_ascii=False) + "\n" for path, value in said.items()}


def _modules(path: Path) -> list[tuple[str, str]]:
    """The modules in their order: the class's own name, and the folder of its config."""
    as_object = b'{"modules": %b}' % read_limited(path, _MAX_BYTES)  # the file holds a list
    listed = parse_json_object(as_object, str(path))["modules"]
    if not isinstance(listed, list) or not listed:
        raise FormatError(f"{path}: a list of modules is expected")
    found = []
    for module in listed:
        kind, inner = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(inner, str) or (inner and not _FOLDER.fullmatch(inner)):
            raise FormatError(f"{path}: module {str(module)[:200]} is unsound; expected a type, and a path in this folder")
        found.append((kind.rpartition(".")[2], inner))
    if found[0][0] != "Transformer" or len({kind for kind, _ in found}) < len(found):
        raise UnsupportedModel(
            f"{path}: modules {[kind for kind, _ in found]} are not implemented; expected a Transformer first"
        )
    return found


def _pooling(path: Path) -> str:
    raw = read_json_object(path, _MAX_BYTES)
    mode = raw.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else mode if mode is not None else [m for k, m in _OLD_MODES.items() if raw.get(k)]
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in _OLD_MODES.values():
        raise FormatError(f"{path}: pooling modes are {modes!r}; expected one of {', '.join(_OLD_MODES.values())}")
    return str(modes[0])


def _score_ids(path: Path) -> tuple[int, int]:
    raw = read_json_object(path, _MAX_BYTES)
    yes, no = raw.get("true_token_id"), raw.get("false_token_id")
    if not isinstance(yes, int) or not isinstance(no, int) or isinstance(yes, bool) or isinstance(no, bool):
        raise UnsupportedModel(
            f"{path}: true_token_id is {yes!r} and false_token_id {no!r}; scores are implemented for two token ids alone"
        )
    return yes, no


def _prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """Prompts by name, and the name of the default."""
    if not path.exists():
        return {}, None
    raw = read_json_object(path, _MAX_BYTES)
    found, default = raw.get("prompts") or {}, raw.get("default_prompt_name")
    if not isinstance(found, dict) or not all(isinstance(prompt, str | None) for prompt in found.values()):
        raise FormatError(f"{path}: prompts is {str(found)[:200]}; expected texts by name")
    prompts = {str(name): prompt or "" for name, prompt in found.items()}
    if default is not None and default not in prompts:
        raise FormatError(
            f"{path}: default_prompt_name is {default!r}, and prompts are {sorted(prompts)}; expected one of them"
        )
    return prompts, str(default) if default is not None else None


def _max_tokens(path: Path) -> int | None:
    if not path.exists():
        return None
    raw = read_json_object(path, _MAX_BYTES)
    if raw.get("do_lower_case"):
        raise UnsupportedModel(f"{path}: do_lower_case is set, which is not implemented")
    most = raw.get("max_seq_length")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise FormatError(f"{path}: max_seq_length is {most!r}; expected a number of tokens")
    return most
