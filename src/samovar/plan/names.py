"""Names that stand for shapes: the shapes' own, and those of the family that `samovar pull` takes."""

import difflib
import re
from typing import Final

from samovar.errors import BadRequest
from samovar.formats.family import FAMILY
from samovar.llm.random_model import QUANTS, SHAPES

MOST_NEAR: Final = 5
_TUNING: Final = re.compile(r"-(instruct|thinking)(?=-2507$|$)")  # sizes are the same


def shape_of(name: str) -> tuple[str, str | None] | None:
    """The shape that a name stands for, and the quantisation that it names; None where it stands for no shape.

    Raises BadRequest for a format of the family that shapes are not planned in.
    """
    low = name.lower()
    if low in SHAPES:
        return low, None
    if (entry := FAMILY.get(low)) is None:
        return None
    repo = entry.repo.rpartition("/")[2].lower().removesuffix("-gguf")
    if (shape := _TUNING.sub("", repo)) in SHAPES:
        return shape, next((quant for quant in QUANTS if low.endswith(f"-{quant}")), None)
    plain, _, kind = re.sub("-gptq-int", "-gptq_int", repo).rpartition("-")
    if (shape := _TUNING.sub("", plain)) in SHAPES and kind != "base":
        raise BadRequest(
            f"{name}: {kind.replace('_', '-')} is planned from files alone; pull it first, or give {shape} with --quant",
            param="model",
        )
    return None


def near_shapes(name: str) -> list[str]:
    """At most MOST_NEAR shapes whose names are like this one, the likest first."""
    return difflib.get_close_matches(name.lower().replace(":", "-"), SHAPES, n=MOST_NEAR, cutoff=0.5)
