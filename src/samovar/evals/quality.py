"""Perplexity of models on a text, and their distance from a reference, one model in memory at a time.

Perplexity is exp of the mean surprise at each scored token; bits per byte is the same surprise over the bytes that the tokens
stand for, and can be compared between vocabularies. KL divergence and agreement are about the whole distribution at the same
positions. Intervals: `evals.interval`. Windows: `evals.windows`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.errors import BadRequest, OutOfMemory, UnsupportedModel
from samovar.evals.interval import Estimate, block_starts, estimate
from samovar.evals.scores import F64, Distance, RowScores, score_rows
from samovar.evals.states import KeptStates, StateSource
from samovar.evals.windows import Windows, cut
from samovar.formats import open_checkpoint
from samovar.formats.hub import default_store, resolve
from samovar.kernels import KvType, WeightForm
from samovar.llm import LLM
from samovar.llm.memory import available_bytes, size
from samovar.llm.speculation import first_difference
from samovar.text.tokenizer import Tokenizer

Progress = Callable[[int, int, str], None]
"""(tokens done, tokens in all, what is being computed)"""

_WORKING_BYTES: Final = 400 << 20  # rows of logits, and what is made of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to measure; `text_name` is for messages. The reference is `against`, else the model itself where `is_exact`: then it
    is computed in float32 by the NumPy kernels. A reference has keys and values in float32, and its weights as stored."""

    text: str
    text_name: str
    window: int
    n_skipped: int
    n_tokens: int | None = None
    against: str | None = None
    is_exact: bool = False
    kv_type: KvType | None = None
    weights: WeightForm = "stored"
    n_threads: int | None = None
    isa: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A model beside its reference: its perplexity over the reference's, on the same blocks; mean KL divergence in nats and its
    99th percentile; the share of positions where both put the same token first."""

    perplexity_ratio: Estimate
    kl: Estimate
    kl_99: float
    top_1: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What was found of one model; `beside` is None without a reference. Sizes in bytes."""

    model: str
    n_tokens: int
    n_windows: int
    perplexity: Estimate
    bits_per_byte: Estimate
    beside: Beside | None
    file_bytes: int
    packed_bytes: int
    bits_per_weight: float
    weights: WeightForm
    kv_type: KvType
    isa: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """What stays of a reference: its name, tokenizer and windows, and its states with the head that makes logits of them."""

    name: str
    tokenizer: Tokenizer
    windows: Windows
    states: KeptStates


def measure(models: Sequence[str], settings: Settings, progress: Progress) -> list[Quality]:
    """Every model in turn.

    Raises UnsupportedModel where a model's vocabulary is not its reference's, BadRequest for a text that is too short,
    OutOfMemory where weights are larger than the memory that is free, and as `LLM` does.
    """
    with ExitStack() as kept:
        if settings.against is not None:
            reference = kept.enter_context(_keep_reference(settings.against, settings, progress))
            return [_measure(model, settings, reference, progress) for model in models]
        if not settings.is_exact:
            return [_measure(model, settings, None, progress) for model in models]
        found = []
        for model in models:
            with _keep_reference(model, settings, progress) as reference:
                found.append(_measure(model, settings, reference, progress))
        return found


@contextmanager
def _keep_reference(name: str, settings: Settings, progress: Progress) -> Iterator[_Reference]:
    isa = "numpy" if settings.is_exact else settings.isa
    what = f"{name} (exact)" if settings.is_exact else name
    with _opened(name, settings, isa=isa, kv_type="f32", weights="stored") as llm:
        windows, tokenizer = _windows(llm, settings), llm.tokenizer
        told = _Told(progress, windows, what)
        states = KeptStates(_source(llm, settings), windows, told)
    with states:
        yield _Reference(name=name, tokenizer=tokenizer, windows=windows, states=states)


def _measure(name: str, settings: Settings, reference: _Reference | None, progress: Progress) -> Quality:
    with _opened(name, settings, isa=settings.isa, kv_type=settings.kv_type, weights=settings.weights) as llm:
        windows = _windows(llm, settings)
        if reference is not None:
            _check_comparable(llm, name, windows, reference)
        scores = _scores(_source(llm, settings), windows, reference, _Told(progress, windows, name))
        n_looked_up = 0 if llm.config.is_tied else llm.model.embedding.n_elements
        return _quality(
            name, llm, windows, scores, 8 * llm.model.packed_bytes / (llm.card.n_parameters - n_looked_up), settings
        )


def _scores(source: StateSource, windows: Windows, reference: _Reference | None, told: "_Told") -> list[RowScores]:
    """Of all scored positions, a piece at a time."""
    found, at = [], 0
    for ids in windows.ids:
        next_R = np.array(ids[windows.n_skipped :], np.int64)
        start = 0
        for logits_RV in source.pieces(source.states(ids, windows.n_skipped)):
            n_rows = len(logits_RV)
            theirs_RV = None if reference is None else reference.states.logits(at, at + n_rows)
            found.append(score_rows(logits_RV, next_R[start : start + n_rows], theirs_RV))
            start, at = start + n_rows, at + n_rows
        told(len(ids))
    return found


def _quality(
    name: str, llm: LLM, windows: Windows, scores: list[RowScores], bits_per_weight: float, settings: Settings
) -> Quality:
    starts_N = block_starts([len(ids) - windows.n_skipped for ids in windows.ids])
    surprise_P = np.concatenate([rows.surprise_R for rows in scores])
    bits = len(surprise_P) / windows.scored_bytes / math.log(2)
    distances = [rows.distance for rows in scores if rows.distance is not None]
    return Quality(
        model=name,
        n_tokens=len(surprise_P),
        n_windows=len(windows.ids),
        perplexity=estimate(surprise_P, starts_N, np.exp),
        bits_per_byte=estimate(surprise_P, starts_N, lambda mean: mean * bits),
        beside=_beside(surprise_P, distances, starts_N) if distances else None,
        file_bytes=llm.card.size_bytes,
        packed_bytes=llm.model.packed_bytes,
        bits_per_weight=bits_per_weight,
        weights=settings.weights,
        kv_type=llm.kv_type,
        isa=llm.ops.isa,
    )


def _beside(surprise_P: F64, distances: list[Distance], starts_N: NDArray[np.int64]) -> Beside:
    kl_P, agrees_P, their_P = (
        np.concatenate(column) for column in zip(*((d.kl_R, d.agrees_R, d.surprise_R) for d in distances), strict=True)
    )
    return Beside(
        perplexity_ratio=estimate(surprise_P - their_P, starts_N, np.exp),
        kl=estimate(kl_P, starts_N),
        kl_99=float(np.quantile(kl_P, 0.99)),
        top_1=estimate(agrees_P.astype(np.float64), starts_N),
    )


class _Told:
    """Adds up tokens of one model's run for a `Progress`."""

    def __init__(self, progress: Progress, windows: Windows, what: str) -> None:
        self._progress, self._what, self._done = progress, what, 0
        self._total = sum(map(len, windows.ids))
        progress(0, self._total, what)

    def __call__(self, n_tokens: int) -> None:
        self._done += n_tokens
        self._progress(self._done, self._total, self._what)


@contextmanager
def _opened(name: str, settings: Settings, *, isa: str | None, kv_type: KvType | None, weights: WeightForm) -> Iterator[LLM]:
    """A model that computes windows alone. Raises OutOfMemory before it is loaded where its weights are larger than what is
    free."""
    path = resolve(name, default_store())
    needed, free = open_checkpoint(path).size_bytes + _WORKING_BYTES, available_bytes()
    if needed > free:
        raise OutOfMemory(f"{name}: needs about {size(needed)} of memory, and {size(free)} are free; measure a smaller model")
    llm = LLM(
        path,
        n_threads=settings.n_threads,
        max_context=1,
        kv_type=kv_type,
        weights=weights,
        isa=isa,
        speculation="off",
        max_streams=1,
        prefix_cache=False,
    )
    try:
        llm.card.check_writes_text()
        yield llm
    finally:
        llm.close()


def _source(llm: LLM, settings: Settings) -> StateSource:
    return StateSource(llm.model, llm.ops, llm.kv_type, settings.window)


def _windows(llm: LLM, settings: Settings) -> Windows:
    """Raises BadRequest for windows longer than the model's context."""
    if settings.window > llm.config.max_context:
        raise BadRequest(
            f"window is {settings.window}; {llm.path} takes at most {llm.config.max_context} tokens", param="window"
        )
    return cut(
        llm.tokenizer,
        settings.text,
        window=settings.window,
        n_skipped=settings.n_skipped,
        n_tokens=settings.n_tokens,
        where=settings.text_name,
    )


def _check_comparable(llm: LLM, name: str, windows: Windows, reference: _Reference) -> None:
    if (difference := first_difference(reference.tokenizer, llm.tokenizer)) is not None:
        token_id, theirs, ours = difference
        raise UnsupportedModel(
            f"{name} and {reference.name} have different vocabularies (token {token_id} is {ours} and {theirs}): probabilities "
            "of different tokens have no KL divergence; measure them without --against, and compare their bits per byte"
        )
    if windows != reference.windows:
        raise UnsupportedModel(
            f"{name} and {reference.name} have the same vocabulary and cut the text differently; measure them without "
            "--against, and compare their bits per byte"
        )
