"""What quantisations are called, and which types of tensors go by each name.

Source: `llama_ftype` of llama.h for the numbers, and llama.cpp's rules for which types a name mixes. Rows that are no multiple
of 256 cannot take a K type, and get the next one of blocks of 32.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from samovar.doctor.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """`main` are the types that most values may have, `narrow` those that stand in on narrow rows; no matrix has less than
    `min_bits` for a value."""

    main: tuple[str, ...]
    min_bits: float
    narrow: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """In words."""
        return f"mostly {' or '.join(self.main)}, none below {self.min_bits:g} bits"


def _of(*main: str, bits: float, narrow: tuple[str, ...] = ()) -> Quantisation:
    return Quantisation(main=main, min_bits=bits, narrow=narrow)


_Q4_NARROW: Final = ("Q5_0", "Q4_0", "IQ4_NL")
QUANTISATIONS: Final = {
    "F32": _of("F32", bits=32),
    "F16": _of("F16", bits=16),
    "BF16": _of("BF16", bits=16),
    "Q8_0": _of("Q8_0", bits=8.5),
    "Q4_0": _of("Q4_0", bits=4.5),
    "Q4_1": _of("Q4_1", bits=5.0),
    "Q5_0": _of("Q5_0", bits=5.5),
    "Q5_1": _of("Q5_1", bits=6.0),
    "Q2_K": _of("Q2_K", "Q3_K", bits=2.625, narrow=_Q4_NARROW),
    "Q2_K_S": _of("Q2_K", bits=2.625, narrow=_Q4_NARROW),
    "Q3_K_S": _of("Q3_K", bits=3.4375, narrow=_Q4_NARROW),
    "Q3_K_M": _of("Q3_K", bits=3.4375, narrow=_Q4_NARROW),
    "Q3_K_L": _of("Q3_K", "Q5_K", bits=3.4375, narrow=(*_Q4_NARROW, "Q5_1")),
    "Q4_K_S": _of("Q4_K", bits=4.5, narrow=_Q4_NARROW),
    "Q4_K_M": _of("Q4_K", bits=4.5, narrow=_Q4_NARROW),
    "Q5_K_S": _of("Q5_K", bits=5.5, narrow=("Q5_1", "Q5_0")),
    "Q5_K_M": _of("Q5_K", bits=5.5, narrow=("Q5_1", "Q5_0")),
    "Q6_K": _of("Q6_K", bits=6.5, narrow=("Q8_0",)),
    "IQ4_NL": _of("IQ4_NL", bits=4.25),
    "IQ4_XS": _of("IQ4_XS", bits=4.25, narrow=("IQ4_NL",)),
    "IQ3_XXS": _of("IQ3_XXS", bits=2.5, narrow=("IQ4_NL",)),
    "IQ3_XS": _of("IQ3_XXS", "IQ3_S", bits=2.5, narrow=("IQ4_NL",)),
    "IQ3_S": _of("IQ3_S", bits=3.4, narrow=("IQ4_NL",)),
    "IQ3_M": _of("IQ3_S", bits=3.4, narrow=("IQ4_NL",)),
    "IQ2_XXS": _of("IQ2_XXS", bits=2.0, narrow=("IQ4_NL",)),
    "IQ2_XS": _of("IQ2_XS", bits=2.0, narrow=("IQ4_NL",)),
    "IQ2_S": _of("IQ2_XS", "IQ2_S", bits=2.0, narrow=("IQ4_NL",)),
    "IQ2_M": _of("IQ2_S", bits=2.0, narrow=("IQ4_NL",)),
    "IQ1_S": _of("IQ1_S", bits=1.5, narrow=("IQ4_NL",)),
    "IQ1_M": _of("IQ1_M", bits=1.5, narrow=("IQ4_NL",)),
    "TQ1_0": _of("TQ1_0", bits=1.6, narrow=("Q4_0",)),
    "TQ2_0": _of("TQ2_0", bits=2.0, narrow=("Q4_0",)),
    "MXFP4_MOE": _of("MXFP4", bits=4.25),
}  # fmt: skip
_FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
    22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS",
    31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
# The settings of the releases that Qwen publishes quantised. Others may choose others.
PUBLISHED_SETTINGS: Final[Mapping[str, Mapping[str, object]]] = {
    "fp8": {"fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "awq": {"bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
    "gptq": {"group_size": 128, "sym": True, "desc_act": False},
}
_METHODS: Final = ("fp8", "awq", "gptq")  # of folders
_FLOATS: Final = ("BF16", "F16", "F32")
_OF_ORIGIN: Final = frozenset({"general.name", "general.basename", "_name_or_path"})


def stated_quantisation(subject: Subject) -> tuple[str, str]:
    """What the file itself says that it is called, and where; empty where it says nothing that is known."""
    if not subject.is_gguf:
        dtype = str(subject.config.get("torch_dtype", subject.config.get("dtype")))
        plain = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}.get(dtype, "")
        return (subject.quantisation, "the config") if subject.quantisation else (plain, "the config")
    number = subject.metadata.get("general.file_type")
    return _FILE_TYPES.get(number, "") if isinstance(number, int) else "", "general.file_type"


def named_quantisation(subject: Subject, *, is_stated: bool) -> str:
    """What the names of a model say that it is called; empty where they say nothing.

    Each format has words of its own: `awq` says nothing of a GGUF file, nor `Q4_K_M` of a folder. Where the file itself states
    its quantisation, the names inside it do not count: quantising and converting copy them, so they tell what it was made from.
    """
    for where, name in reversed(subject.names):
        if is_stated and where in _OF_ORIGIN:
            continue
        words = re.sub(r"\.gguf$", "", name.lower())
        for known in sorted(QUANTISATIONS, key=len, reverse=True) if subject.is_gguf else _FLOATS:
            if re.search(rf"(^|[^a-z0-9]){known.lower()}($|[^a-z0-9])", words):
                return known
        for method in () if subject.is_gguf else _METHODS:
            if re.search(rf"(^|[^a-z]){method}([^a-z]|$)", words):
                return method
    return ""
