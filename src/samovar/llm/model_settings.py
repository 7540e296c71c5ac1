"""What a caller decides when a model is opened, as plain data: it may travel to another process."""

from dataclasses import dataclass
from typing import Literal, get_args

from samovar.errors import BadRequest
from samovar.kernels import KvType, WeightForm
from samovar.llm.setup import check_choices
from samovar.llm.speculation import SpeculationMode, check_speculation

LongContextMode = Literal["auto", "off"]
"""Whether requests may go beyond the native context, by YaRN, with models that are made for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """See `LLM` for the meaning of each. Raises BadRequest for a value out of range."""

    path: str
    n_threads: int | None = None
    max_context: int | None = None
    kv_type: KvType | None = None
    weights: WeightForm = "stored"
    isa: str | None = None
    draft: str | None = None
    speculation: SpeculationMode = "auto"
    cache: bool = True
    memory: int | None = None
    max_streams: int = 64
    max_waiting: int = 1024
    prefix_cache: bool = True
    chat_template: str | None = None
    long_context: LongContextMode = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        check_choices(self.kv_type, self.weights, self.max_context, self.memory, self.max_streams, self.max_waiting)
        if self.chat_template is not None and not isinstance(self.chat_template, str):
            raise BadRequest(f"chat_template is {self.chat_template!r}; expected Jinja source as text", param="chat_template")
        if self.long_context not in get_args(LongContextMode):
            choices = " or ".join(get_args(LongContextMode))
            raise BadRequest(f"long_context is {self.long_context!r}; expected {choices}", param="long_context")
        check_speculation(self.speculation, self.draft)
