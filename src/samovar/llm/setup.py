"""Choices made when a model is loaded: operations, number formats, and what a caller may ask for."""

from pathlib import Path
from typing import get_args

from samovar.errors import BadRequest
from samovar.kernels import KV_DTYPES, KvType, Ops, WeightForm
from samovar.kernels.cores import usable_cores
from samovar.kernels.native import available_isas, isa_warning, native_missing_reason, native_ops

MAX_THREADS = 512

_NO_VECTORS = (
    "this processor lacks AVX2, FMA or F16C (and is none with NEON): running on the scalar kernels, which are much slower "
    "than those for newer processors"
)


def choose_ops(isa: str | None, n_threads: int | None) -> tuple[Ops, str | None]:
    """The native operations, or the NumPy ones with the reason why answers will be slow."""
    if n_threads is not None and (not isinstance(n_threads, int) or not 1 <= n_threads <= MAX_THREADS):
        raise BadRequest(f"n_threads is {n_threads!r}; expected a whole number from 1 to {MAX_THREADS}", param="n_threads")
    if isa == "numpy":
        return _reference_ops(), "running on the NumPy kernels, as asked for: they are much slower than the native ones"
    if isa is None and (reason := native_missing_reason()) is not None:
        return _reference_ops(), f"running on the NumPy kernels, which are much slower than the native ones: {reason}"
    names = available_isas()
    if isa not in (None, *names):
        choices = ", ".join((*names, "numpy"))
        raise BadRequest(
            f"instruction set {isa!r} is not available here; choose one of {choices}, or leave it out", param="isa"
        )
    slow_reason = None if isa else _NO_VECTORS if names[-1] == "scalar" else isa_warning()
    return native_ops(isa=isa or names[-1], n_threads=n_threads or usable_cores()), slow_reason


def _reference_ops() -> Ops:
    from samovar.kernels.reference import ReferenceOps  # start-up waits for imports, and native operations need none of it

    return ReferenceOps()


def check_choices(
    kv_type: object, weights: object, max_context: object, memory: object, max_streams: object, max_waiting: object
) -> None:
    """What a type checker would see, for those who have none."""
    if kv_type is not None and kv_type not in tuple(KV_DTYPES):
        raise BadRequest(f"kv_type is {kv_type!r}; expected {', '.join(KV_DTYPES)} or None", param="kv_type")
    if weights not in get_args(WeightForm):
        raise BadRequest(f"weights is {weights!r}; expected {' or '.join(get_args(WeightForm))}", param="weights")
    for name, value, low in (("memory", memory, 1), ("max_streams", max_streams, 1), ("max_waiting", max_waiting, 0)):
        is_left_out = name == "memory" and value is None
        if not is_left_out and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            raise BadRequest(f"{name} is {value!r}; expected a whole number from {low} on", param=name)
    if max_context is not None and (isinstance(max_context, bool) or not isinstance(max_context, int)):
        raise BadRequest(f"max_context is {max_context!r}; expected a whole number of tokens or None", param="max_context")


def kv_type_for(weights: str) -> KvType:
    """Keys and values in bf16, whose range no value exceeds; in f32 beside weights in f32."""
    return "f32" if weights == "F32" else "bf16"


def check_switches(**switches: object) -> None:
    """Raises BadRequest for a switch that is neither on nor off."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise BadRequest(f"{name} is {value!r}; expected True or False", param=name)


def as_list(texts: str | list[str], param: str) -> list[str]:
    """A text, or a list of them, as a list. Raises BadRequest for anything else."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, list) or not texts:
        raise BadRequest(f"{param} is {texts!r}; expected a text or a list of texts", param=param)
    return texts


def as_path(path: object, param: str) -> str:
    """A path as text. Raises BadRequest for anything else."""
    if not isinstance(path, str | Path) or not str(path):
        raise BadRequest(f"{param} is {path!r}; expected the path of a folder", param=param)
    return str(path)
