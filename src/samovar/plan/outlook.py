"""Candidates beside a machine: what fits, how fast it would be, and which to take."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from samovar.errors import BadRequest
from samovar.kernels import KvType, WeightForm
from samovar.llm.memory import size
from samovar.llm.random_model import QUANTS, SHAPES, Shape, random_checkpoint
from samovar.plan.costs import Machine
from samovar.plan.planned_model import PlannedModel

FAMILY_QUANTS: Final = ("q4_0", "q4_k_m", "q6_k", "q8_0", "bf16")
SHAPE_QUANTS: Final = tuple(quant for quant in QUANTS if quant != "f32")  # releases are BF16: F32 is twice that for nothing
_RELEASED_BITS: Final = 16.5  # of a weight as released, and a little
_SOUND_BITS: Final = 4.0  # of a weight: with fewer, models that were not trained for it lose much
PROMPT_TOKENS: Final = 512
MAX_USERS: Final = 1024
_SHORT: Final = 16  # tokens that `samovar bench` decodes after


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a plan is made for: `n_users` at once with `context` tokens each, and at least `least_tokens_per_s` for one."""

    context: int
    n_users: int
    least_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One candidate. `missing_bytes` is 0 where it fits, `most_context` the tokens for each user that would fit; `is_too_long`
    says that the model takes no context as long as the wish. `model_context` is the model's own length, `longest_context` that
    with YaRN, and `yarn_factor` what the wish is computed with (1: the model's own rotation).

    Rates are tokens a second: one stream after a short prompt and after a full context, all users together after full contexts,
    and a prompt of PROMPT_TOKENS.
    """

    model: str
    quant: str
    kv_type: KvType
    n_parameters: int
    bits_per_weight: float
    weight_bytes: int
    read_bytes: int
    memory_bytes: int
    missing_bytes: int
    most_context: int
    model_context: int
    longest_context: int
    yarn_factor: int
    is_too_long: bool
    decode: float
    decode_full: float
    decode_users: float
    prefill: float

    @property
    def fits(self) -> bool:
        """Whether memory and model hold what is wished for."""
        return not self.missing_bytes and not self.is_too_long


def look_at(model: PlannedModel, machine: Machine, usable_bytes: int, wish: Wish) -> Outlook:
    """What becomes of one candidate on a machine with so much memory to use."""
    needed = model.memory_bytes(wish.context, wish.n_users)
    full = min(wish.context, model.longest_context) - 1
    return Outlook(
        model=model.name,
        quant=model.quant,
        kv_type=model.kv_type,
        n_parameters=model.n_parameters,
        bits_per_weight=model.bits_per_weight,
        weight_bytes=model.decoder.packed_bytes,
        read_bytes=model.decoder.read_bytes,
        memory_bytes=needed,
        missing_bytes=max(0, needed - usable_bytes),
        most_context=model.most_context(usable_bytes, wish.n_users),
        model_context=model.config.max_context,
        longest_context=model.longest_context,
        yarn_factor=model.yarn_factor(wish.context),
        is_too_long=wish.context > model.longest_context,
        decode=model.decode_tokens_per_s(machine, context=min(_SHORT, full)),
        decode_full=model.decode_tokens_per_s(machine, context=full),
        decode_users=model.decode_tokens_per_s(machine, context=full, n_streams=wish.n_users),
        prefill=model.prefill_tokens_per_s(machine, min(PROMPT_TOKENS, full + 1)),
    )


def distinct_shapes(context: int) -> dict[str, tuple[str, ...]]:
    """Names of the family's shapes, each with those of others that have the same sizes, and differ in length or rotation.

    Of such the first that takes the context is named, or the last where none does.
    """
    groups: dict[Shape, list[str]] = {}
    for name, shape in SHAPES.items():
        groups.setdefault(replace(shape, max_context=0, rope_theta=0.0), []).append(name)
    chosen = [next((n for n in names if SHAPES[n].max_context >= context), names[-1]) for names in groups.values()]
    return {name: tuple(other for other in names if other != name) for name, names in zip(chosen, groups.values(), strict=True)}


def shape_candidates(
    names: Iterable[str],
    quants: Sequence[str],
    *,
    n_layers: int | None = None,
    kv_type: KvType | None = None,
    form: WeightForm = "stored",
) -> Iterable[PlannedModel]:
    """Named shapes in the quantisations given. Raises BadRequest for a name or quantisation that there is not."""
    for name in names:
        if name not in SHAPES:
            raise BadRequest(f"shape is {name!r}; expected one of {', '.join(SHAPES)}", param="shape")
        shape = SHAPES[name] if n_layers is None else SHAPES[name].with_layers(n_layers)
        for quant in quants:
            if quant not in QUANTS:
                raise BadRequest(f"quant is {quant!r}; expected one of {', '.join(QUANTS)}", param="quant")
            checkpoint = random_checkpoint(f"{name} {quant}", shape, quant)
            shown = f"{quant}, int4" if form == "int4" else quant
            yield PlannedModel.of(checkpoint, name=name, quant=shown, kv_type=kv_type, form=form)


def best(outlooks: Sequence[Outlook], wish: Wish) -> Outlook | None:
    """Of what fits and is quick enough, that with the most parameters, and of those with the most bits a weight, as far as
    those of the release: more are rounded from it, and say nothing more.

    Where nothing is quick enough it is the quickest that fits; None where nothing fits. Types of few bits count only where no
    others fit.
    """
    fitting = [outlook for outlook in outlooks if outlook.fits]
    fitting = [outlook for outlook in fitting if outlook.bits_per_weight >= _SOUND_BITS] or fitting
    quick = [outlook for outlook in fitting if outlook.decode_full >= wish.least_tokens_per_s]
    if quick:
        return max(quick, key=_worth)
    return max(fitting, key=lambda outlook: outlook.decode_full, default=None)


def _worth(outlook: Outlook) -> tuple[int, bool, float]:
    is_within = outlook.bits_per_weight <= _RELEASED_BITS
    return outlook.n_parameters, is_within, outlook.bits_per_weight if is_within else -outlook.bits_per_weight


def yarn_notes(outlooks: Sequence[Outlook], wish: Wish) -> list[str]:
    """A line for the models that reach the wish by YaRN, by factor; one where longest contexts count on it."""
    models: dict[tuple[int, int], list[str]] = {}
    for outlook in outlooks:
        if outlook.yarn_factor > 1 and not outlook.is_too_long:
            names = models.setdefault((outlook.yarn_factor, outlook.model_context), [])
            names += [outlook.model] if outlook.model not in names else []
    notes = [
        f"{wish.context:,} tokens are beyond the native {own:,} of {', '.join(names)}: by YaRN, factor {factor}"
        for (factor, own), names in models.items()
    ]
    if native := sorted({outlook.model_context for outlook in outlooks if outlook.most_context > outlook.model_context}):
        notes.append(f"longest contexts beyond the native {' or '.join(f'{n:,}' for n in native)} are by YaRN, factor 2 or 4")
    return notes


def advice(outlooks: Sequence[Outlook], wish: Wish, usable_bytes: int) -> str:
    """One sentence: what to take and why, or what stands in the way."""
    users = "one user" if wish.n_users == 1 else f"{wish.n_users} users"
    whom = f"{users} with {wish.context:,} tokens{'' if wish.n_users == 1 else ' each'}"
    choice = best(outlooks, wish)
    if choice is None:
        return _nothing_fits(outlooks, wish, usable_bytes, whom)
    if len(outlooks) == 1:
        why = f"which fits {whom}"
    elif choice.decode_full >= wish.least_tokens_per_s:
        quick = f"writes at least {wish.least_tokens_per_s:g} tokens/s"
        why = f"the most parameters, then the most bits, of what fits {whom} and {quick}"
    else:
        why = f"the quickest that fits {whom}, though none writes {wish.least_tokens_per_s:g} tokens/s"
    if choice.bits_per_weight < _SOUND_BITS:
        why += f"; it has less than {_SOUND_BITS:g} bits a weight, which loses much"
    elif any(o.fits and o.bits_per_weight < _SOUND_BITS for o in outlooks):
        why += f"; types of less than {_SOUND_BITS:g} bits, which lose much, left aside"
    return (
        f"best that fits: {choice.model} {choice.quant}, {why} ({size(choice.memory_bytes)} of {size(usable_bytes)}; "
        f"{choice.decode:.3g} tokens/s at first, {choice.decode_full:.3g} after {wish.context:,} tokens)"
    )


def _nothing_fits(outlooks: Sequence[Outlook], wish: Wish, usable_bytes: int, whom: str) -> str:
    able = [outlook for outlook in outlooks if not outlook.is_too_long]
    if not able:
        longest = max(outlook.longest_context for outlook in outlooks)
        return f"nothing fits: a context of {wish.context:,} tokens is beyond the model's {longest:,}; ask for less"
    least = min(able, key=lambda outlook: outlook.memory_bytes)
    message = (
        f"nothing fits {whom}: {least.model} {least.quant} needs the least, {size(least.memory_bytes)}, and "
        f"{size(least.missing_bytes)} of it are missing ({size(usable_bytes)} can be used)"
    )
    roomy = max(outlooks, key=lambda outlook: outlook.most_context)
    if roomy.most_context:
        message += f"; {roomy.model} {roomy.quant} would fit with --context {roomy.most_context}"
    return message


def look_at_all(
    models: Iterable[PlannedModel],
    machine: Machine,
    usable_bytes: int,
    wish: Wish,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Outlook]:
    """Every candidate in turn; `progress` is told of each."""
    found = []
    for model in models:
        progress(f"{model.name} {model.quant}")
        found.append(look_at(model, machine, usable_bytes, wish))
    return found
