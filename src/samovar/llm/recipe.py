"""How a model makes vectors of texts, or scores them: what its files say, and what its release is known to need beyond that.

Sources: the model cards of Qwen3-Embedding and Qwen3-Reranker (huggingface.co/Qwen), the files of sentence-transformers, and
llama.cpp's converter, which writes `{arch}.pooling_type` and, for a reranker, a classifier made of the head's rows for yes and
no. A file that says nothing is known by the name of its release, in its path, its README's title or `general.name`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats import Checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.sentence_files import SentenceFiles
from samovar.models.config import DecoderConfig
from samovar.text.tokenizer import Tokenizer

TextKind = Literal["query", "document"]
DEFAULT_TASK: Final = "Given a web search query, retrieve relevant passages that answer the query"
_QUERY: Final = "Instruct: {task}\nQuery:"  # no space after it
_TASK: Final = re.compile(r"\AInstruct: (?P<task>.*)\nQuery: ?\Z", re.S)
_JUDGES: Final = "Judge whether the Document meets the requirements"
_RERANK_KEY: Final = "tokenizer.chat_template.rerank"
_EMBEDDER_NAME: Final = re.compile(r"qwen3[-_ .]*embedding", re.I)
_RERANKER_NAME: Final = re.compile(r"qwen3[-_ .]*reranker", re.I)
_QWEN3: Final = ("qwen3", "qwen3_moe")
_DOCUMENT_PROMPTS: Final = ("document", "passage", "corpus")  # sentence-transformers' encode_document, in this order
MIN_DIMENSIONS: Final = 32  # of Qwen3-Embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRecipe:
    """A text is `prompts[kind]` and what was given, then `end_ids`; its vector is the state after the last token.

    `prompts` is None where nothing says how queries are marked; `default_prompt` goes before a text of no stated kind.
    `min_dimensions` is the least number that a vector may be cut to, None where nothing says that the model
    was trained for it. `max_tokens` bounds a text.
    """

    prompts: Mapping[TextKind, str] | None
    default_prompt: str = ""
    end_ids: tuple[int, ...] = ()
    min_dimensions: int | None = None
    max_tokens: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def takes_instruction(self) -> bool:
        """Whether the query's prompt has a place for a task of the caller's own."""
        return self.prompts is not None and _TASK.match(self.prompts["query"]) is not None

    def instructed(self, task: str) -> str:
        """What goes before a query for this task. Only where `takes_instruction`."""
        assert self.prompts is not None
        found = _TASK.match(self.prompts["query"])
        assert found is not None
        return self.prompts["query"][: found.start("task")] + task + self.prompts["query"][found.end("task") :]


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRecipe:
    """The score of a document is the softmax of yes against no: of the logits of the tokens `yes_no_ids`, or of the labels at
    `yes_no_labels`; of a single label, which stands for the difference, the sigmoid (`yes_no_labels` is None then too)."""

    yes_no_ids: tuple[int, int] | None = None
    yes_no_labels: tuple[int, int] | None = None


Recipe = EmbeddingRecipe | RerankRecipe


def read_recipe(
    checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer, template_source: str | None
) -> Recipe | None:
    """The recipe of a checkpoint; None for a model that writes text. Raises UnsupportedModel for a way of pooling that is not
    computed, FormatError where files contradict each other."""
    where, names = str(checkpoint.path), _names(checkpoint)
    files, pooling = _pooling(checkpoint)
    is_reranker = config.architecture in _QWEN3 and any(map(_RERANKER_NAME.search, names))
    _check_rerank_prompt(checkpoint, where)
    if config.outputs.kind == "labels":
        is_known = is_reranker or _speaks_of_reranking(checkpoint, template_source)
        return _classifier(checkpoint, config, where) if is_known else None
    words = None if isinstance(checkpoint, GgufCheckpoint) else _words(checkpoint.config.get("classifier_from_token"))
    if is_reranker or words is not None or (files is not None and files.score_ids is not None):
        return RerankRecipe(yes_no_ids=_yes_no_ids(tokenizer, files, words or ["no", "yes"], where))
    is_qwen3 = config.architecture in _QWEN3 and any(map(_EMBEDDER_NAME.search, names))
    if pooling is None and not is_qwen3:
        return None
    if pooling not in (None, "lasttoken"):
        raise UnsupportedModel(
            f"{where}: its vectors are pooled by {pooling!r}, which is not implemented; expected the last token's state"
        )
    return _embedding(files, tokenizer, where, is_qwen3=is_qwen3)


def yes_no_tokens(tokenizer: Tokenizer, no: str = "no", yes: str = "yes") -> tuple[int, int] | None:
    """The tokens for yes and no; None for a vocabulary that spells them in pieces."""
    found = [tokenizer.encode(word, add_bos=False) for word in (yes, no)]
    return (found[0][0], found[1][0]) if all(len(ids) == 1 for ids in found) else None


def _names(checkpoint: Checkpoint) -> list[str]:
    """What may name the release. A folder of Hugging Face's cache is named after a commit, and lies in one that tells more."""
    path = checkpoint.path.resolve()
    names = [path.name, path.parent.parent.name if path.parent.name == "snapshots" else ""]
    if isinstance(checkpoint, GgufCheckpoint):
        return [*names, *(str(checkpoint.facts.get(f"general.{key}", "")) for key in ("name", "basename"))]
    return [*names, checkpoint.title, str(checkpoint.config.get("_name_or_path", ""))]


def _pooling(checkpoint: Checkpoint) -> tuple[SentenceFiles | None, str | None]:
    """What sentence-transformers wrote, and how a vector comes of states; None where nothing says so."""
    files = checkpoint.vectors
    if isinstance(checkpoint, GgufCheckpoint):
        return files, checkpoint.pooling
    return files, None if files is None else files.pooling


def _embedding(files: SentenceFiles | None, tokenizer: Tokenizer, where: str, *, is_qwen3: bool) -> EmbeddingRecipe:
    prompts: dict[TextKind, str] | None = None
    if is_qwen3:
        prompts = {"query": _QUERY.format(task=DEFAULT_TASK), "document": ""}
    warnings, default = [], ""
    if files is not None:
        document = next((files.prompts[name] for name in _DOCUMENT_PROMPTS if name in files.prompts), "")
        stated: dict[TextKind, str] = {"query": files.prompts.get("query", ""), "document": document}
        prompts = stated if files.prompts or prompts is None else prompts
        is_qwen3 = is_qwen3 or files.prompts.get("query") == _QUERY.format(task=DEFAULT_TASK)
        default = files.prompts[files.default_prompt] if files.default_prompt is not None else ""
        if not files.is_normalised:
            warnings.append(f"{where}: modules.json lists no Normalize; vectors are made of length 1 all the same")
    end_ids = tokenizer.suffix_ids
    if is_qwen3 and (end := tokenizer.control_tokens.get("<|endoftext|>")) is not None and end_ids != (end,):
        warnings.append(
            f"{where}: its tokenizer does not put <|endoftext|> after a text, where Qwen3-Embedding's vector is read; it is "
            "put there all the same"
        )
        end_ids = (end,)
    return EmbeddingRecipe(
        prompts=prompts,
        default_prompt=default,
        end_ids=end_ids,
        min_dimensions=MIN_DIMENSIONS if is_qwen3 else None,
        max_tokens=None if files is None else files.max_tokens,
        warnings=tuple(warnings),
    )


def _yes_no_ids(tokenizer: Tokenizer, files: SentenceFiles | None, no_yes: list[str], where: str) -> tuple[int, int]:
    if files is not None and files.score_ids is not None:
        if beyond := [i for i in files.score_ids if not 0 <= i < tokenizer.n_tokens]:
            raise FormatError(f"{where}: LogitScore reads token id {beyond[0]}; expected 0 to {tokenizer.n_tokens - 1}")
        return files.score_ids
    if (found := yes_no_tokens(tokenizer, *no_yes)) is None:
        raise FormatError(f"{where}: a reranker whose vocabulary has no single tokens for {no_yes}, which it answers by")
    return found


def _check_rerank_prompt(checkpoint: Checkpoint, where: str) -> None:
    """llama.cpp's converter writes the prompt that a reranker was trained on into the file. Only Qwen3-Reranker's is known."""
    prompt = checkpoint.facts.get(_RERANK_KEY) if isinstance(checkpoint, GgufCheckpoint) else None
    if prompt is not None and (not isinstance(prompt, str) or _JUDGES not in prompt):
        raise UnsupportedModel(f"{where}: {_RERANK_KEY} is {str(prompt)[:80]!r}; only Qwen3-Reranker's prompt is implemented")


def _speaks_of_reranking(checkpoint: Checkpoint, template_source: str | None) -> bool:
    """Whether a classifier's files tell it from one that judges something else, such as a reward model."""
    if _JUDGES in (template_source or ""):
        return True
    if isinstance(checkpoint, GgufCheckpoint):
        return sorted(_gguf_labels(checkpoint) or ()) == ["no", "yes"] or checkpoint.facts.get(_RERANK_KEY) is not None
    config = checkpoint.config
    return _words(config.get("classifier_from_token")) is not None or bool(config.get("is_original_qwen3_reranker"))


def _classifier(checkpoint: Checkpoint, config: DecoderConfig, where: str) -> RerankRecipe:
    """Which label is which. A single one stands for yes against no."""
    if not isinstance(checkpoint, GgufCheckpoint):
        _check_activation(checkpoint.config, where)
    labels = label_names(checkpoint)
    if config.outputs.n_labels == 1:
        return RerankRecipe()
    if labels is None or len(labels) != 2 or {str(label).lower() for label in labels} != {"yes", "no"}:
        raise UnsupportedModel(
            f"{where}: its labels are {labels!r}; a reranker is implemented for one label, or for yes and no"
        )
    at = [str(label).lower() for label in labels]
    return RerankRecipe(yes_no_labels=(at.index("yes"), at.index("no")))


def label_names(checkpoint: Checkpoint) -> Sequence[object] | None:
    """The names of a classifier's labels in the order of its rows, as they are stated; None where they are not."""
    if isinstance(checkpoint, GgufCheckpoint):
        return _gguf_labels(checkpoint)
    return _words(checkpoint.config.get("classifier_from_token")) or _id2label(checkpoint.config)


def _gguf_labels(checkpoint: GgufCheckpoint) -> list[str] | None:
    found = checkpoint.facts.get(f"{checkpoint.facts.get('general.architecture')}.classifier.output_labels")
    return [str(label) for label in found] if isinstance(found, list) else None


def _words(found: object) -> list[str] | None:
    """`classifier_from_token`, as vLLM reads it: the words in the order of the classifier's rows."""
    return [str(word) for word in found] if isinstance(found, list) and len(found) == 2 else None


def _id2label(config: Mapping[str, object]) -> list[object] | None:
    names = config.get("id2label")
    return [names.get(str(index)) for index in range(len(names))] if isinstance(names, dict) else None


def _check_activation(config: Mapping[str, object], where: str) -> None:
    """sentence-transformers' CrossEncoder says what makes a score of a logit."""
    stated = config.get("sentence_transformers")
    name = str(stated.get("activation_fn", "Sigmoid")).rpartition(".")[2] if isinstance(stated, dict) else "Sigmoid"
    if name not in ("Sigmoid", "Identity", "Softmax"):
        raise UnsupportedModel(f"{where}: activation_fn {name!r} is not implemented; expected Sigmoid, Identity or Softmax")
