"""What follows a decoder's last layer: a row of logits over the vocabulary, a few labels, or nothing at all.

Embedding models are saved without an output head, and often under names without the prefix `model.`; rerankers that were
converted to classifiers have a small matrix in its place: `score.weight` in a Hugging Face folder (as transformers'
`...ForSequenceClassification` has it), `cls.output.weight` in GGUF (as llama.cpp's converter writes it).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from samovar.errors import FormatError

_MAX_LABELS: Final = 1024
_BARE: Final = "embed_tokens.weight"
_HEAD: Final = "output.weight"  # of a GGUF file
POOLING_LAST: Final = 3  # llama.cpp's enum llama_pooling_type
POOLING_RANK: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """`kind` "vocabulary" is an output head, "labels" a classifier of `n_labels`, "none" neither. `is_bare` says that a
    folder's tensors are named without `model.`, `keeps_head` that a whole output head is there beside the classifier that was
    made of it, and not computed."""

    kind: Literal["vocabulary", "labels", "none"] = "vocabulary"
    n_labels: int = 0
    has_label_bias: bool = False
    is_bare: bool = False
    keeps_head: bool = False


VOCABULARY: Final = Outputs()


def folder_outputs(
    config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], where: str, *, is_embedder: bool
) -> Outputs:
    """What a Hugging Face folder's model ends in, by its config and its tensors' shapes.

    `is_embedder` says that the folder holds the files of sentence-transformers; then a head that could be had by tying is not
    wanted. Raises FormatError where labels and tensors contradict each other.
    """
    is_bare = _BARE in shapes
    is_tied, has_own_head = config.get("tie_word_embeddings") is True, "lm_head.weight" in shapes
    # vLLM makes the classifier of such a folder at load, out of the head's rows; the head's logits say the same
    is_made_at_load = "score.weight" not in shapes and bool(config.get("classifier_from_token")) and (has_own_head or is_tied)
    if _is_classifier(config) and not is_made_at_load:
        return _labels(shapes, "score", _stated_labels(config, where), where, is_bare=is_bare)
    has_head = has_own_head or (is_tied and not is_embedder)
    return Outputs(kind="none" if is_bare and not has_head else "vocabulary", is_bare=is_bare)


def gguf_outputs(pooling_type: object, labels: object, shapes: Mapping[str, tuple[int, ...]], where: str) -> Outputs:
    """What a GGUF file's model ends in, by `{arch}.pooling_type`, `{arch}.classifier.output_labels` and its tensors.

    Raises FormatError for a pooling type that llama.cpp does not have, and a reranker whose classifier is missing.
    """
    if isinstance(pooling_type, bool) or pooling_type not in (None, 0, 1, 2, POOLING_LAST, POOLING_RANK):
        raise FormatError(f"{where}: pooling_type is {pooling_type!r}; expected 0 (none) to {POOLING_RANK} (rank)")
    if pooling_type == POOLING_RANK:
        if labels is not None and (not isinstance(labels, list) or not all(isinstance(label, str) for label in labels)):
            raise FormatError(f"{where}: classifier.output_labels is {labels!r}; expected a list of names")
        found = _labels(shapes, "cls.output", None if labels is None else len(labels), where, is_bare=False)
        return replace(found, keeps_head=_HEAD in shapes)
    is_embedder = pooling_type in (1, 2, POOLING_LAST)
    return Outputs(kind="none" if is_embedder and _HEAD not in shapes else "vocabulary")


def _is_classifier(config: Mapping[str, object]) -> bool:
    names = config.get("architectures")
    return isinstance(names, list) and len(names) == 1 and str(names[0]).endswith("ForSequenceClassification")


def _stated_labels(config: Mapping[str, object], where: str) -> int | None:
    """How many labels a config names; None where it names none. transformers writes two where nobody chose a number."""
    names, count = config.get("id2label"), config.get("num_labels")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= _MAX_LABELS):
        raise FormatError(f"{where}: num_labels is {count!r}; expected a whole number from 1 to {_MAX_LABELS}")
    if isinstance(names, dict):
        if isinstance(count, int) and count != len(names):
            raise FormatError(f"{where}: num_labels is {count}, and id2label names {len(names)}; one of them is wrong")
        return len(names)
    return count if isinstance(count, int) else None


def _labels(shapes: Mapping[str, tuple[int, ...]], name: str, stated: int | None, where: str, *, is_bare: bool) -> Outputs:
    shape = shapes.get(f"{name}.weight")
    if shape is None:
        raise FormatError(
            f"{where}: says that the model scores texts, and tensor {name + '.weight'!r} is missing: convert the model again, "
            "with a converter that keeps its classifier"
        )
    if len(shape) != 2 or not 0 < shape[0] <= _MAX_LABELS or (stated is not None and stated != shape[0]):
        expected = f"{stated} rows, as many as there are labels" if stated is not None else f"1 to {_MAX_LABELS} rows"
        raise FormatError(f"{where}: tensor {name + '.weight'!r} has shape {list(shape)}; expected {expected}")
    return Outputs(kind="labels", n_labels=shape[0], has_label_bias=f"{name}.bias" in shapes, is_bare=is_bare)
