"""What makes vectors or scores of texts, from one format to the other: pooling, prompts, labels, and the tokens yes and no.

A folder says it in the files of sentence-transformers or in its config; a GGUF file in llama.cpp's keys (`pooling_type`,
`classifier.output_labels`, `tokenizer.chat_template.rerank`), a classifier `cls.output`, and the keys of
`formats.sentence_keys`. A reranker that reads its head's logits for yes and no has these two rows as that classifier, as
llama.cpp's converter writes it, and keeps its head.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from samovar.formats import Checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.gguf_values import EncodedValue, encode_as, encode_list
from samovar.formats.sentence_files import SentenceFiles
from samovar.formats.sentence_keys import sentence_keys
from samovar.kernels.dequantise import dequantise
from samovar.llm.model_text import read_model_text
from samovar.llm.recipe import EmbeddingRecipe, Recipe, RerankRecipe, label_names, read_recipe
from samovar.llm.scoring import RERANK_TEMPLATE
from samovar.models.config import DecoderConfig
from samovar.models.outputs import POOLING_LAST, POOLING_RANK
from samovar.tensors.stored import Tensor

_CLASSIFIER: Final = "cls.output.weight"
_YES_NO: Final = ("yes", "no")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScoring:
    """What a checkpoint says. `files` are what sentence-transformers would write for it, None for a model that does neither.

    `n_labels` is the number of a classifier's rows, 0 where there is none; `labels` are their names, () where they have none.
    """

    recipe: Recipe | None
    files: SentenceFiles | None
    n_labels: int
    labels: tuple[str, ...]

    @property
    def is_rank(self) -> bool:
        """Whether it scores texts, or judges them by labels."""
        return isinstance(self.recipe, RerankRecipe) or self.n_labels > 0

    @property
    def pooling_type(self) -> int | None:
        """llama.cpp's number for how one vector, or one score, comes of many states; None for a model that writes text."""
        if self.is_rank:
            return POOLING_RANK
        return POOLING_LAST if isinstance(self.recipe, EmbeddingRecipe) else None

    @property
    def score_ids(self) -> tuple[int, int] | None:
        """The tokens (yes, no) whose logits are compared; None for vectors, and for a classifier."""
        return self.files.score_ids if self.files is not None else None


def text_scoring(checkpoint: Checkpoint, config: DecoderConfig) -> TextScoring:
    """What the checkpoint says. Raises what reading its tokenizer and recipe raises."""
    text = read_model_text(checkpoint)
    recipe = read_recipe(checkpoint, config, text.tokenizer, text.template_source)
    ids: tuple[int, int] | None = None
    if isinstance(recipe, RerankRecipe):
        ids = recipe.yes_no_ids
        if isinstance(checkpoint, GgufCheckpoint) and ids is None and checkpoint.vectors is not None:
            ids = _ids_of_head(checkpoint, config, recipe, checkpoint.vectors.score_ids)
    if ids is not None:
        return TextScoring(recipe=recipe, files=_files(checkpoint, recipe, ids), n_labels=2, labels=_YES_NO)
    outputs = config.outputs
    named = label_names(checkpoint) if outputs.n_labels > 1 else None
    labels = tuple(map(str, named)) if named is not None and len(named) == outputs.n_labels else ()
    return TextScoring(recipe=recipe, files=_files(checkpoint, recipe, None), n_labels=outputs.n_labels, labels=labels)


def classifier_rows(scoring: TextScoring, head: Tensor) -> tuple[Tensor, ...]:
    """The rows of an output head that make the classifier of a GGUF file, in the order of its labels; () for no reranker."""
    if scoring.score_ids is None:
        return ()
    stored = head.stored()
    return tuple(stored.part(i, i + 1) for i in scoring.score_ids)


def scoring_keys(scoring: TextScoring) -> dict[str, EncodedValue]:
    """The keys of a GGUF file beside those of the architecture."""
    keys: dict[str, EncodedValue] = {}
    if isinstance(scoring.recipe, RerankRecipe):
        keys["tokenizer.chat_templates"] = encode_list("string", ["rerank"])
        keys["tokenizer.chat_template.rerank"] = encode_as("string", RERANK_TEMPLATE)
    return keys if scoring.files is None else keys | sentence_keys(scoring.files)


def label_config(scoring: TextScoring) -> dict[str, object]:
    """What the config.json of a classifier says of its labels."""
    names = scoring.labels or [f"LABEL_{i}" for i in range(scoring.n_labels)]
    found: dict[str, object] = {"id2label": {str(i): name for i, name in enumerate(names)}}
    found["label2id"] = {name: i for i, name in enumerate(names)}
    if isinstance(scoring.recipe, RerankRecipe):
        found["classifier_from_token"] = list(scoring.labels) or ["no", "yes"]  # a single label is yes less no
    return found


def _files(checkpoint: Checkpoint, recipe: Recipe | None, score_ids: tuple[int, int] | None) -> SentenceFiles | None:
    """The files of sentence-transformers: those that are there, and what the release is known to need."""
    files = checkpoint.vectors
    if score_ids is not None:
        return replace(files or SentenceFiles(pooling=None, is_normalised=False), pooling=None, score_ids=score_ids)
    if not isinstance(recipe, EmbeddingRecipe):
        return None
    files = files or SentenceFiles(pooling=None, is_normalised=True, max_tokens=recipe.max_tokens)
    known = {str(kind): prompt for kind, prompt in (recipe.prompts or {}).items()}
    return replace(files, pooling="lasttoken", prompts=files.prompts or known)


def _ids_of_head(
    checkpoint: GgufCheckpoint, config: DecoderConfig, recipe: RerankRecipe, ids: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The tokens (yes, no) where the classifier repeats their rows of the output head to the bit, else None."""
    classifier = checkpoint.tensors.get(_CLASSIFIER)
    if ids is None or classifier is None or recipe.yes_no_labels is None:
        return None
    if not all(0 <= i < config.vocab_size for i in ids):
        return None
    head = checkpoint.tensors.get("output.weight", checkpoint.tensors["token_embd.weight"]).stored()
    stored = classifier.stored()
    found_ND = dequantise(stored.type, stored.data).reshape(stored.shape)[list(recipe.yes_no_labels)]
    wanted_ND = dequantise(head.type, np.ascontiguousarray(head.rows()[list(ids)]).reshape(-1)).reshape(2, -1)
    return ids if np.array_equal(found_ND, wanted_ND) else None
