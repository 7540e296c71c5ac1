"""Types of the compiled module; its sources are in native/. Wrong lengths raise ValueError."""

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_I32 = NDArray[np.int32]
_I64 = NDArray[np.int64]
_Pages = NDArray[np.generic]

def available_isas() -> list[str]: ...
def isa_warning() -> str: ...
def checksum(data: NDArray[np.uint8]) -> int: ...
def say_on_bus_error(message: str) -> None: ...

class Checker:
    def __init__(self, pieces: list[NDArray[np.uint8]], expected: list[int], n_threads: int) -> None: ...
    def is_sound(self, piece: int) -> bool: ...

int4_id: int
packed_layout: int

class NativeLinear:
    def __init__(self, type_id: int, n_out: int, n_in: int, n_stacked: int = 1, has_order: bool = False) -> None: ...
    @property
    def n_out(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def n_stacked(self) -> int: ...
    @property
    def is_int4(self) -> bool: ...
    @property
    def size_bytes(self) -> int: ...
    def packed_bytes(self) -> NDArray[np.uint8]: ...
    def adopt(self, data: NDArray[np.uint8]) -> None: ...

class _Operations:
    def embed(self, type_id: int, table: NDArray[np.uint8], ids: NDArray[np.int64], scale: float, out: _F32) -> None: ...
    def linears(
        self,
        x: _F32,
        weights: tuple[NativeLinear, ...],
        biases: tuple[_F32 | None, ...],
        outs: tuple[_F32, ...],
        residual: _F32 | None,
        norm: _F32 | None,
        eps: float,
        gate: _F32 | None,
        is_gelu: bool,
    ) -> None: ...
    def rms_norm(self, x: _F32, weight: _F32, eps: float, out: _F32) -> None: ...
    def rope(self, x: _F32, cos: _F32, sin: _F32, out: _F32) -> None: ...
    def silu_gate(self, gate: _F32, up: _F32, out: _F32) -> None: ...
    def gelu_gate(self, gate: _F32, up: _F32, out: _F32) -> None: ...
    def sigmoid_gate(self, gate: _F32, x: _F32, out: _F32) -> None: ...
    def convolve(
        self, x: _F32, taps: _F32, inputs: _F32, row_starts: _I32, positions: _I32, slots: _I32, out: _F32
    ) -> None: ...
    def delta_rule(
        self,
        x: _F32,
        gates: _F32,
        rate: _F32,
        bias: _F32,
        memories: _F32,
        row_starts: _I32,
        positions: _I32,
        slots: _I32,
        out: _F32,
    ) -> None: ...
    def route(self, logits: _F32, is_renormalised: bool, ids: NDArray[np.int32], weights: _F32) -> None: ...
    def experts(
        self,
        x: _F32,
        gate: NativeLinear,
        up: NativeLinear,
        down: NativeLinear,
        ids: NDArray[np.int32],
        weights: _F32,
        residual: _F32,
        out: _F32,
    ) -> None: ...
    def accumulate(self, x: _F32, out: _F32) -> None: ...
    def write_kv(
        self,
        k: _F32,
        v: _F32,
        kind: int,
        k_pages: _Pages,
        v_pages: _Pages,
        k_scale: _F32,
        v_scale: _F32,
        slots: NDArray[np.int64],
    ) -> None: ...
    def sample(
        self,
        logits: _F32,
        temperature: _F64,
        top_k: _I64,
        top_p: _F64,
        min_p: _F64,
        repetition: _F32,
        presence: _F32,
        frequency: _F32,
        seeds: NDArray[np.uint64],
        positions: NDArray[np.uint64],
        seen_starts: _I64,
        seen_ids: _I64,
        seen_counts: _I64,
        bias_starts: _I64,
        bias_ids: _I64,
        bias_values: _F32,
        mask: NDArray[np.uint32] | None,
        ids: _I64,
    ) -> None: ...
    def attention(
        self,
        q: _F32,
        kind: int,
        k_pages: _Pages,
        v_pages: _Pages,
        k_scale: _F32,
        v_scale: _F32,
        row_starts: NDArray[np.int32],
        positions: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        scale: float,
        window: int,
        out: _F32,
    ) -> None: ...

class Engine(_Operations):
    def __init__(self, isa: str, n_threads: int) -> None: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def native_seconds(self) -> float: ...
    def pack(
        self, weight: NativeLinear, stored: NDArray[np.uint8], first: int = 0, order: NDArray[np.int32] | None = None
    ) -> bool: ...
    def take_codebook(self, type_id: int, codes: NDArray[np.uint8]) -> None: ...
    def quantise(self, type_id: int, x: _F32, importance: _F32, out: NDArray[np.uint8]) -> None: ...
    def pack_int4(
        self,
        weight: NativeLinear,
        type_id: int,
        stored: NDArray[np.uint8],
        first: int = 0,
        order: NDArray[np.int32] | None = None,
    ) -> bool: ...

class Program(_Operations):
    def __init__(self, engine: Engine) -> None: ...
    def run(self) -> None: ...
    def __len__(self) -> int: ...

def build_byte_pairs(
    pieces: list[str],
    merges: list[str],
    roles: NDArray[np.uint8],
    char_classes: NDArray[np.uint8],
    words: int,
    looks_up_words: bool,
) -> NDArray[np.uint8]: ...

class BytePairs:
    def __init__(self, table: NDArray[np.uint8]) -> None: ...
    @property
    def n_tokens(self) -> int: ...
    def encode(self, text: bytes) -> list[int]: ...
    def piece(self, token_id: int) -> bytes: ...

class Limits:
    def __init__(self, isa: str, n_threads: int, n_bytes: int) -> None: ...
    def read_bytes_per_s(self) -> float: ...
    def int8_ops_per_s(self, n_rounds: int) -> float: ...
