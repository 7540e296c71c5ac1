"""Which type each tensor of a quantised file takes: the mixes that llama.cpp's presets stand for.

Most matrices of the layers take the type that was asked for; what counts more for the result takes a finer one. Rules are
those of `llama-quantize` (llama.cpp, `src/llama-quant.cpp`) for the presets Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0 and IQ4_NL:

- `attn_qkv`, which joins queries, keys and values, counts as `attn_v`, and a shared expert's `ffn_down_shexp` as `ffn_down`;
- the output head, and an embedding that is tied to it, take Q6_K (beside Q8_0: Q8_0); other embeddings the plain type;
- q4_k and q5_k: `attn_v` and `ffn_down` take Q6_K in the first and last eighth of the layers and in each third between;
- q4_0 with importance: `ffn_down` takes Q4_1 in the first eighth of the layers;
- iq4_nl: `attn_v` takes Q5_K where 4 or more query heads share a key head, and `ffn_down` in the first eighth of the layers
  where there is no importance;
- with 8 experts, `attn_k` and `attn_v` take Q8_0, and beside Q4_K and IQ4_NL `attn_output` Q5_K;
- with 80 layers, `attn_v` takes Q5_K beside Q4_K;
- a matrix that joins queries, keys and values takes what `attn_v` would.

samovar-int4 is Samovar's own (`formats.int4_rows`), in all matrices of the layers whose rows are a multiple of 64 values; an
embedding that is not tied takes Q4_0. A mix of a float type takes it for all matrices.

Vectors, classifiers and the routers of experts stay in F32. Rows that no block of a type divides take a finer type (FALLBACKS).
"""

from dataclasses import dataclass
from typing import Final

from samovar.llm.random_model import uses_more_bits
from samovar.models.config import DecoderConfig
from samovar.models.weights import INT4_UNIT
from samovar.tensors.dtypes import F16, F32, INT4_ROWS, IQ4_NL, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TensorType

INT4_FILE_TYPE: Final = 1024  # llama.cpp's "guessed", the type of files that are none of its mixes
FALLBACKS: Final = {Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0}
_STAY_F32: Final = ("ffn_gate_inp", "ffn_gate_inp_shexp", "ssm_conv1d")
_CLASSIFIER: Final = "cls."
_MANY_LAYERS: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What `--type` stands for. `file_type` is llama.cpp's number for it (`general.file_type`)."""

    name: str
    plain: TensorType
    file_type: int
    has_better: bool = False


MIXES: Final = {
    mix.name: mix
    for mix in (
        Mix(name="q8_0", plain=Q8_0, file_type=7),
        Mix(name="q6_k", plain=Q6_K, file_type=18),
        Mix(name="q5_k", plain=Q5_K, file_type=17, has_better=True),
        Mix(name="q4_k", plain=Q4_K, file_type=15, has_better=True),
        Mix(name="q4_0", plain=Q4_0, file_type=2),
        Mix(name="iq4_nl", plain=IQ4_NL, file_type=25),
        Mix(name="samovar-int4", plain=INT4_ROWS, file_type=INT4_FILE_TYPE),
    )
}


def stays_f32(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of a GGUF file is F32 beside any type: vectors, routers, taps, a classifier's few rows, no weights."""
    is_kept = name.split(".")[-2] in _STAY_F32 or name.startswith(_CLASSIFIER)
    return len(shape) == 1 or is_kept or not name.endswith(".weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeRules:
    """A mix for one model."""

    mix: Mix
    config: DecoderConfig
    has_importance: bool

    def type_of(self, name: str, shape: tuple[int, ...]) -> TensorType:
        """The type of a tensor, by its GGUF name."""
        wanted, width = self.wanted(name, shape), shape[-1]
        if wanted is INT4_ROWS and width % INT4_UNIT:
            return Q5_0 if width % Q5_0.block_elements == 0 else F16
        if width % wanted.block_elements:
            wanted = FALLBACKS.get(wanted, wanted)
        return F16 if width % wanted.block_elements else wanted

    def wanted(self, name: str, shape: tuple[int, ...]) -> TensorType:
        """The type of a tensor if all rows suited it."""
        part = name.split(".")[-2]
        if stays_f32(name, shape):
            return F32
        if self.mix.plain.is_float:
            return self.mix.plain
        if part == "output" or (part == "token_embd" and self.config.is_tied):
            return Q8_0 if self.mix.plain is Q8_0 else Q6_K
        if part == "token_embd":
            return Q4_0 if self.mix.plain is INT4_ROWS else self.mix.plain
        return self._in_layer(part.removesuffix("_exps").removesuffix("_shexp"), int(name.split(".")[1]))

    def _in_layer(self, part: str, layer: int) -> TensorType:
        config, plain = self.config, self.mix.plain
        is_better = self.mix.has_better and uses_more_bits(layer, config.n_layers)
        is_first_eighth = layer < config.n_layers // 8
        has_8_experts = config.experts is not None and config.experts.n_experts == 8
        if part in ("attn_k", "attn_v", "attn_qkv") and has_8_experts:
            return Q8_0
        if part in ("attn_v", "attn_qkv"):
            if plain is Q4_K and not is_better and config.n_layers == _MANY_LAYERS:
                return Q5_K
            if plain is IQ4_NL and config.n_heads >= 4 * config.n_kv_heads:
                return Q5_K
            return Q6_K if is_better else plain
        if part == "attn_output" and has_8_experts and plain in (Q4_K, IQ4_NL):
            return Q5_K
        if part != "ffn_down":
            return plain
        if plain is IQ4_NL and is_first_eighth and not self.has_importance:
            return Q5_K
        if plain is Q4_0 and is_first_eighth and self.has_importance:
            return Q4_1
        return Q6_K if is_better else plain
