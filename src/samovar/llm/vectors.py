"""Vectors of texts, as a model's recipe makes them: which prompt goes before, what follows, and how much is kept."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from samovar.engine.client import EngineClient
from samovar.engine.request import Ending, Request, SamplingParams
from samovar.errors import BadRequest, PromptTooLong
from samovar.llm.model_card import ModelCard
from samovar.llm.options import EmbedAsk
from samovar.llm.prepared_scores import PreparedScores
from samovar.llm.recipe import EmbeddingRecipe, RerankRecipe, TextKind
from samovar.text.tokenizer import Tokenizer

_ANY_MODEL = "to have the state after its last token all the same, pass any_model=True (samovar serve: --any-model-scores)"


def embedding_recipe(card: ModelCard, *, any_model: bool) -> EmbeddingRecipe:
    """The recipe that holds for a request. Raises BadRequest for a model that has none, unless any model will do."""
    if isinstance(card.recipe, EmbeddingRecipe):
        return card.recipe
    if any_model:  # where all is as the caller says, any number of dimensions is
        return EmbeddingRecipe(prompts=None, end_ids=card.text.tokenizer.suffix_ids, min_dimensions=1)
    what = "a reranker" if isinstance(card.recipe, RerankRecipe) else "no embedding model by its files"
    raise BadRequest(
        f"{card.text.origin} is {what}, so its vectors may mean little: use an embedding model; {_ANY_MODEL}", param="model"
    )


class EmbedPlan:
    """Texts as token ids that fit. `truncated` is (index, tokens) of those that were cut."""

    def __init__(
        self,
        texts: Sequence[str | tuple[int, ...]],
        ask: EmbedAsk,
        recipe: EmbeddingRecipe,
        tokenizer: Tokenizer,
        *,
        max_context: int,
    ) -> None:
        """Raises BadRequest for what the recipe has no place for, PromptTooLong for a text that does not fit."""
        self._recipe, self._tokenizer, self._ask = recipe, tokenizer, ask
        self._limit = min(n for n in (max_context, recipe.max_tokens, ask.max_tokens) if n is not None)
        self.truncated: list[tuple[int, int]] = []
        prompt = _prompt(recipe, ask)
        self.ids = [self._encoded(index, text, prompt) for index, text in enumerate(texts)]

    def _encoded(self, index: int, text: str | tuple[int, ...], prompt: str) -> tuple[int, ...]:
        if isinstance(text, tuple):
            return self._as_given(index, text)
        if not isinstance(text, str):
            raise BadRequest(f"texts holds a {type(text).__name__}; expected texts", param="texts")
        if not text:
            raise BadRequest(f"text {index} is empty; expected at least one character", param="texts")
        tokenizer, end_ids = self._tokenizer, self._recipe.end_ids
        ids = tokenizer.encode(prompt + text, parse_control=False, add_bos=tokenizer.add_bos)
        n_tokens = len(ids) + len(end_ids)
        if n_tokens > self._limit:
            n_kept = self._limit - len(end_ids)
            if not self._ask.truncate or n_kept < 1:
                raise _too_long(index, n_tokens, self._limit)
            self.truncated.append((index, n_tokens))
            ids = ids[:n_kept]
        return (*ids, *end_ids)

    def _as_given(self, index: int, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Token ids that the caller chose. They have to end where the recipe reads the vector."""
        if self._ask.kind is not None or self._ask.instruction is not None:
            raise BadRequest("token ids are taken as they are: leave kind and instruction out, or give texts", param="kind")
        end_ids = self._recipe.end_ids
        if end_ids and ids[-len(end_ids) :] != end_ids:
            shown = "".join(map(self._tokenizer.token_text, end_ids))
            raise BadRequest(
                f"token ids of text {index} do not end with {list(end_ids)} ({shown}), where this model's vector is read: "
                "append it, or give a text",
                param="texts",
            )
        if len(ids) > self._limit:
            raise _too_long(index, len(ids), self._limit)
        return ids


def prepare_embed(
    engine: EngineClient, card: ModelCard, texts: Sequence[str | tuple[int, ...]], ask: EmbedAsk, *, max_context: int
) -> PreparedScores[NDArray[np.float32]]:
    """[S, D]: the state after the last token of each text, of length 1; the first `dimensions` of it where fewer are wanted."""
    recipe = embedding_recipe(card, any_model=ask.any_model)
    _check_dimensions(recipe, ask.dimensions, card.config.d_model)
    plan = EmbedPlan(texts, ask, recipe, card.text.tokenizer, max_context=max_context)
    plain = SamplingParams(temperature=0, max_tokens=1)
    requests = [
        Request(prompt_ids=ids, sampling=plain, task="embed", tenant=ask.tenant, adapter=ask.adapter) for ids in plan.ids
    ]
    return PreparedScores(engine, requests, lambda endings: _vectors(endings, ask.dimensions), tuple(plan.truncated))


def _prompt(recipe: EmbeddingRecipe, ask: EmbedAsk) -> str:
    """What goes before each text."""
    kind, task = ask.kind, ask.instruction
    if kind is not None and kind not in get_args(TextKind):
        raise BadRequest(f"kind is {kind!r}; expected {' or '.join(get_args(TextKind))}", param="kind")
    if task is not None:
        if not isinstance(task, str):
            raise BadRequest(f"instruction is {task!r}; expected a text", param="instruction")
        if kind == "document":
            raise BadRequest("instruction is given, and documents have none; give it with queries", param="instruction")
        if not recipe.takes_instruction:
            raise BadRequest(
                "instruction is given, and nothing in this model's files says how it is told one: put it into the text",
                param="instruction",
            )
        return recipe.instructed(task)
    if kind is None:
        return recipe.default_prompt
    if recipe.prompts is None:
        raise BadRequest(
            f"kind is {kind!r}, and nothing in this model's files says how queries and documents are told apart: leave it out, "
            "and put what the model needs into the text",
            param="kind",
        )
    return recipe.prompts[kind]


def _check_dimensions(recipe: EmbeddingRecipe, dimensions: int | None, width: int) -> None:
    if dimensions is None:
        return
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= width:
        raise BadRequest(f"dimensions is {dimensions!r}; this model's vectors have 1 to {width}", param="dimensions")
    if dimensions == width:
        return
    if recipe.min_dimensions is None:
        raise BadRequest(
            f"dimensions is {dimensions}, and nothing in this model's files says that its vectors may be cut; they have "
            f"{width}",
            param="dimensions",
        )
    if dimensions < recipe.min_dimensions:
        raise BadRequest(
            f"dimensions is {dimensions}; this model's vectors were trained to be cut to {recipe.min_dimensions} to {width}",
            param="dimensions",
        )


def _too_long(index: int, n_tokens: int, limit: int) -> PromptTooLong:
    error = PromptTooLong(n_tokens, limit)
    error.args = (
        f"text {index} has {n_tokens} tokens, and the context holds {limit}: shorten it, or pass truncate to have its end "
        "cut off",
    )
    error.param = "texts"
    return error


def _vectors(endings: list[Ending], dimensions: int | None) -> NDArray[np.float32]:
    vectors = [ending.vector for ending in endings if ending.vector is not None]
    assert len(vectors) == len(endings)
    vectors_SD = np.stack(vectors)
    if dimensions is None:
        return vectors_SD
    cut_SD = vectors_SD[:, :dimensions].astype(np.float64)
    length_S1 = np.maximum(np.sqrt((cut_SD * cut_SD).sum(axis=1, keepdims=True)), 1e-12)
    unit_SD: NDArray[np.float32] = (cut_SD / length_S1).astype(np.float32)
    return unit_SD
