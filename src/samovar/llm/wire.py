"""Messages between a model's own process and the one that uses it: msgpack in frames with a length before them.

Only plain data goes over the wire. An error is rebuilt from its name among `samovar.errors`, its message and its fields.
"""

import contextlib
import socket
import struct
import threading
from numbers import Integral, Real
from typing import Any, Final, Literal, TypeVar

import msgspec
import numpy as np

from samovar import errors
from samovar.engine.request import Event, Request
from samovar.errors import BadRequest, SamovarError
from samovar.kernels import KvType
from samovar.llm.engine_stats import EngineStats
from samovar.llm.model_settings import ModelSettings

MAX_FRAME_BYTES: Final = 1 << 28
_LENGTH: Final = struct.Struct("<I")
T = TypeVar("T")


class Open(msgspec.Struct, tag=True, frozen=True):
    """Open a model; the first message."""

    settings: ModelSettings


class Submit(msgspec.Struct, tag=True, frozen=True):
    """A request, by the sender's `id`."""

    id: int
    request: Request
    leader: int | None
    is_idle_work: bool


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """End request `id`."""

    id: int


class StopThinking(msgspec.Struct, tag=True, frozen=True):
    """Close the thoughts of request `id`."""

    id: int


class Forget(msgspec.Struct, tag=True, frozen=True):
    """Drop what is cached of a text beyond `n_keep` tokens."""

    realm: tuple[str, str, int]
    ids: tuple[int, ...]
    n_keep: int


class Call(msgspec.Struct, tag=True, frozen=True):
    """Do something with the model as a whole; `Answered` tells what came of it."""

    id: int
    name: Literal["load_adapter", "unload_adapter", "save_prefixes", "load_prefixes", "stats"]
    arguments: tuple[str, ...]


class Check(msgspec.Struct, tag=True, frozen=True):
    """See whether a request can be served, and compile its grammar; `Answered` tells why not."""

    id: int
    request: Request


ToEngine = Open | Submit | Cancel | StopThinking | Forget | Call | Check


class Progress(msgspec.Struct, tag=True, frozen=True):
    """Weights are getting ready."""

    n_done: int
    n_total: int
    what: str


class Opened(msgspec.Struct, tag=True, frozen=True):
    """The model answers from here on."""

    max_context: int
    kv_type: KvType
    slow_reason: str | None
    warnings: tuple[str, ...]


class Refused(msgspec.Struct, tag=True, frozen=True):
    """The model cannot be opened."""

    error: SamovarError


class Happened(msgspec.Struct, tag=True, frozen=True):
    """An event of request `id`; a new request would have to wait `wait_s`."""

    id: int
    event: Event
    wait_s: float


class Answered(msgspec.Struct, tag=True, frozen=True):
    """What call or check `id` returned or raised."""

    id: int
    value: int | EngineStats | None
    error: SamovarError | None


FromEngine = Progress | Opened | Refused | Happened | Answered


class Channel:
    """One end of a connected socket. Threads may send side by side; one may receive."""

    def __init__(self, connection: socket.socket, receives: Any) -> None:  # a union of message types
        self._connection, self._lock = connection, threading.Lock()
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_to_plain)
        self._decoder = msgspec.msgpack.Decoder(receives, dec_hook=_from_plain)

    def send(self, message: ToEngine | FromEngine) -> None:
        """Raises OSError when the other end is gone, BadRequest for text that is no valid Unicode."""
        try:
            data = self._encoder.encode(message)
        except UnicodeEncodeError as error:
            raise BadRequest(f"{error.object!r} has half a surrogate pair, which is no valid Unicode: remove it") from None
        assert len(data) <= MAX_FRAME_BYTES, len(data)
        with self._lock:
            self._connection.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> Any:
        """The next message. Raises OSError or EOFError when the other end is gone, or sends what is no message."""
        (n_bytes,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if n_bytes > MAX_FRAME_BYTES:
            raise EOFError(f"a message of {n_bytes} bytes")
        try:
            return self._decoder.decode(self._read(n_bytes))
        except (msgspec.MsgspecError, SamovarError, LookupError, RecursionError) as error:
            raise EOFError(f"what came is no message: {error}") from error

    def close(self) -> None:
        """Let the other end know that nobody listens."""
        with self._lock:
            self._connection.close()

    def shut(self) -> None:
        """Wake whoever receives at either end."""
        with contextlib.suppress(OSError):  # it is gone
            self._connection.shutdown(socket.SHUT_RDWR)

    def _read(self, n_bytes: int) -> bytearray:
        data = bytearray(n_bytes)
        view, n_read = memoryview(data), 0
        while n_read < n_bytes:
            if (n := self._connection.recv_into(view[n_read:])) == 0:
                raise EOFError("the connection was closed")
            n_read += n
        return data


def _to_plain(value: object) -> object:
    if isinstance(value, SamovarError):
        return {"kind": type(value).__name__, "message": str(value), "fields": vars(value)}
    if isinstance(value, np.ndarray):
        assert value.dtype == np.float32, value.dtype
        return value.tobytes()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):  # NumPy's, say
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise NotImplementedError(type(value))


def _from_plain(kind: type[T], value: Any) -> T | object:
    if kind is SamovarError:
        found = getattr(errors, value["kind"], SamovarError)
        error_type = found if isinstance(found, type) and issubclass(found, SamovarError) else SamovarError
        error = error_type.__new__(error_type)
        error.args = (value["message"],)
        vars(error).update(value["fields"])
        return error
    if (getattr(kind, "__origin__", None) or kind) is np.ndarray:
        return np.frombuffer(value, np.float32)
    raise NotImplementedError(kind)
