"""Numbers instead of text: vectors of texts, how well documents answer a query, how likely a model finds a continuation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.engine.client import EngineClient
from samovar.engine.request import Ending, Logprob, Request, SamplingParams
from samovar.errors import BadRequest
from samovar.llm.prepared_scores import PreparedScores
from samovar.text.tokenizer import Tokenizer

# Qwen3-Reranker's own prompt (huggingface.co/Qwen/Qwen3-Reranker-0.6B)
_RERANK_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note "
    'that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_RERANK_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
DEFAULT_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_PLAIN = SamplingParams(temperature=0, max_tokens=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """What a model makes of a given continuation: the natural logarithm of its probability, its tokens and theirs, and whether
    greedy decoding would have written it."""

    logprob: float
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    is_greedy: bool


def prepare_embed(
    engine: EngineClient,
    tokenizer: Tokenizer,
    texts: Sequence[str | tuple[int, ...]],
    width: int,
    *,
    dimensions: int | None,
    tenant: str,
    adapter: str | None,
) -> PreparedScores[NDArray[np.float32]]:
    """[S, D]: the state after the last token of each text, or of ids as they are, of length 1. The first `dimensions` of the
    `width` where fewer are wanted."""
    if dimensions is not None and (
        isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= width
    ):
        raise BadRequest(f"dimensions is {dimensions!r}; this model's vectors have 1 to {width}", param="dimensions")
    prompts = [
        text if isinstance(text, tuple) else tuple(tokenizer.encode(_text(text, "texts"), parse_control=False))
        for text in texts
    ]
    requests = [Request(prompt_ids=ids, sampling=_PLAIN, task="embed", tenant=tenant, adapter=adapter) for ids in prompts]
    return PreparedScores(engine, requests, lambda endings: _vectors(endings, dimensions))


def _vectors(endings: list[Ending], dimensions: int | None) -> NDArray[np.float32]:
    vectors = [ending.vector for ending in endings if ending.vector is not None]
    assert len(vectors) == len(endings)
    vectors_SD = np.stack(vectors)
    if dimensions is None:
        return vectors_SD
    cut_SD = vectors_SD[:, :dimensions].astype(np.float64)
    unit_SD: NDArray[np.float32] = (cut_SD / np.sqrt((cut_SD * cut_SD).sum(axis=1, keepdims=True))).astype(np.float32)
    return unit_SD


def prepare_rerank(
    engine: EngineClient,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    task: str | None,
    tenant: str,
    adapter: str | None,
) -> PreparedScores[list[float]]:
    """For each pair of a query and a document the probability of "yes" against "no" when asked whether the one answers the
    other, 0 to 1."""
    words = [tokenizer.encode(word, add_bos=False) for word in ("no", "yes")]
    if any(len(ids) != 1 for ids in words):
        raise BadRequest("this model's vocabulary has no single tokens for yes and no, which reranking reads")
    no_id, yes_id = (ids[0] for ids in words)
    head, tail = _begin(tokenizer, _RERANK_PREFIX), tokenizer.encode(_RERANK_SUFFIX, add_bos=False)
    requests = []
    task = DEFAULT_TASK if task is None else _text(task, "task")
    for query, document in pairs:
        body = f"<Instruct>: {task}\n<Query>: {_text(query, 'query')}\n<Document>: {_text(document, 'documents')}"
        ids = (*head, *tokenizer.encode(body, parse_control=False, add_bos=False), *tail)
        requests.append(Request(prompt_ids=ids, sampling=_PLAIN, logit_ids=(no_id, yes_id), tenant=tenant, adapter=adapter))
    return PreparedScores(engine, requests, lambda endings: [_share_of_yes(ending) for ending in endings])


def _share_of_yes(ending: Ending) -> float:
    no, yes = ending.logits
    return 1 / (1 + math.exp(no - yes)) if no - yes < 700 else 0.0


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
