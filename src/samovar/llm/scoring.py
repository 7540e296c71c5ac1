"""Numbers instead of text: how well documents answer a query, how likely a model finds a continuation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from samovar.engine.client import EngineClient
from samovar.engine.request import Logprob, Request, SamplingParams, Task
from samovar.errors import BadRequest
from samovar.llm.model_card import ModelCard
from samovar.llm.prepared_scores import PreparedScores
from samovar.llm.recipe import DEFAULT_TASK, EmbeddingRecipe, RerankRecipe, yes_no_tokens
from samovar.text.tokenizer import Tokenizer

# Qwen3-Reranker's own prompt (huggingface.co/Qwen/Qwen3-Reranker-0.6B)
_RERANK_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note "
    'that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_RERANK_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
RERANK_TEMPLATE = f"{_RERANK_PREFIX}<Instruct>: {DEFAULT_TASK}\n<Query>: {{query}}\n<Document>: {{document}}{_RERANK_SUFFIX}"
"""The prompt in the form that llama.cpp keeps in a GGUF file."""
_PLAIN = SamplingParams(temperature=0, max_tokens=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """What a model makes of a given continuation: the natural logarithm of its probability, its tokens and theirs, and whether
    greedy decoding would have written it."""

    logprob: float
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    is_greedy: bool


def rerank_recipe(card: ModelCard, *, any_model: bool) -> RerankRecipe:
    """The recipe that holds for a request. Raises BadRequest for a model that has none, unless any model will do that can."""
    outputs, name = card.config.outputs, card.text.origin
    if isinstance(card.recipe, RerankRecipe):
        return card.recipe
    if isinstance(card.recipe, EmbeddingRecipe) or outputs.kind == "none":
        raise BadRequest(f"{name} is an embedding model, and writes no yes or no: use a reranker", param="model")
    if not any_model:
        raise BadRequest(
            f"{name} is no reranker by its files, so its scores may mean little: use a reranker; to ask it for yes or no all "
            "the same, pass any_model=True (samovar serve: --any-model-scores)",
            param="model",
        )
    if outputs.kind == "labels":
        if outputs.n_labels > 1:
            raise BadRequest(f"{name} has {outputs.n_labels} labels; only a single one can be read as a score", param="model")
        return RerankRecipe()
    if (found := yes_no_tokens(card.text.tokenizer)) is None:
        raise BadRequest("this model's vocabulary has no single tokens for yes and no, which reranking reads")
    return RerankRecipe(yes_no_ids=found)


def prepare_rerank(
    engine: EngineClient,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    recipe: RerankRecipe,
    *,
    instruction: str | None,
    tenant: str,
    adapter: str | None,
) -> PreparedScores[list[float]]:
    """For each pair of a query and a document the probability of "yes" against "no" when asked whether the one answers the
    other, 0 to 1."""
    head, tail = _begin(tokenizer, _RERANK_PREFIX), tokenizer.encode(_RERANK_SUFFIX, add_bos=False)
    task = DEFAULT_TASK if instruction is None else _text(instruction, "instruction")
    asked: Task = "generate" if recipe.yes_no_ids is not None else "classify"
    requests = []
    for query, document in pairs:
        body = f"<Instruct>: {task}\n<Query>: {_text(query, 'query')}\n<Document>: {_text(document, 'documents')}"
        ids = (*head, *tokenizer.encode(body, parse_control=False, add_bos=False), *tail)
        logit_ids = recipe.yes_no_ids or ()
        requests.append(
            Request(prompt_ids=ids, sampling=_PLAIN, task=asked, logit_ids=logit_ids, tenant=tenant, adapter=adapter)
        )
    return PreparedScores(engine, requests, lambda endings: [_share_of_yes(ending.logits, recipe) for ending in endings])


def _share_of_yes(logits: tuple[float, ...], recipe: RerankRecipe) -> float:
    """Of logits of yes and no, of labels, or of a single label, which stands for yes less no."""
    if len(logits) == 1:
        less = -logits[0]
    else:
        yes, no = recipe.yes_no_labels or (0, 1)
        less = logits[no] - logits[yes]
    return 1 / (1 + math.exp(less)) if less < 700 else 0.0


def log_likelihoods(
    engine: EngineClient, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], *, tenant: str
) -> list[Likelihood]:
    """The likelihood of the second text of each pair after the first.

    The two are encoded as one text where the context's tokens stay as they are, else each by itself. An empty context is the
    model's beginning-of-text or end-of-text token.
    """
    if not isinstance(pairs, list | tuple):
        raise BadRequest(f"pairs is {pairs!r}; expected a list of pairs", param="pairs")
    requests, starts = [], []
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise BadRequest(f"pairs holds {pair!r}; expected pairs of a context and a continuation", param="pairs")
        context, continuation = pair
        ids, n_context = _joined(tokenizer, _text(context, "context"), _text(continuation, "continuation"))
        starts.append(n_context)
        requests.append(
            Request(
                prompt_ids=ids,
                sampling=_PLAIN,
                task="prefill",
                prompt_logprobs=1,
                prompt_logprobs_from=n_context,
                tenant=tenant,
            )
        )
    endings = PreparedScores(engine, requests, list).run()
    return [
        _likelihood(request.prompt_ids[start:], ending.prompt_logprobs)
        for request, start, ending in zip(requests, starts, endings, strict=True)
    ]


def _joined(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[tuple[int, ...], int]:
    """Context and continuation as tokens, and how many are the context's."""
    if not continuation:
        raise BadRequest("a continuation is empty; expected a text whose likelihood is wanted", param="continuation")
    n_spaces = len(context) - len(context.rstrip())
    if n_spaces:  # most vocabularies join a space to the word after it
        context, continuation = context[:-n_spaces], context[-n_spaces:] + continuation
    first = _begin(tokenizer, context)
    if not first:
        start = tokenizer.eos_id
        if start is None:
            raise BadRequest("the context is empty, and this model has no token to begin with", param="context")
        return (start, *tokenizer.encode(continuation, add_bos=False)), 1
    whole = _begin(tokenizer, context + continuation)
    if whole[: len(first)] != first or len(whole) == len(first):  # a token would lie across the border
        whole = (*first, *tokenizer.encode(continuation, add_bos=False))
    return whole, len(first)


def _begin(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The ids of a text that others follow: with what the tokenizer puts before a text, and without what it puts after."""
    return tuple(tokenizer.encode(text, add_bos=tokenizer.add_bos))


def _likelihood(token_ids: tuple[int, ...], logprobs: tuple[Logprob, ...]) -> Likelihood:
    values = tuple(logprob.value for logprob in logprobs)
    assert len(values) == len(token_ids)
    return Likelihood(
        logprob=math.fsum(values),
        token_ids=token_ids,
        token_logprobs=values,
        is_greedy=all(logprob.top[0][0] == token_id for logprob, token_id in zip(logprobs, token_ids, strict=True)),
    )


def _text(value: object, param: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{param} holds a {type(value).__name__}; expected texts", param=param)
    return value
