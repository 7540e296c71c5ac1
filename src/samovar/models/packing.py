"""When weights are packed: at once, or layer by layer in the background while the first prompt is being computed.

A model's weights fall into parts: one for each layer, and the output head. In the background, a part is mapped from the cache
where it is there and sound, and packed from the model file otherwise. What is packed is put into the cache for the next start.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.errors import SamovarError
from samovar.formats.cache import CacheFile, CacheStore, CacheWriter
from samovar.kernels import Linear, Ops, Stack, WeightForm
from samovar.kernels.native import NativeOps, packed_layout
from samovar.tensors.stored import StoredTensor, Tensor

if TYPE_CHECKING:
    from samovar._native import NativeLinear

Progress = Callable[[int, int, str], None]
_MIN_CACHED_BYTES = 16 << 20  # smaller models are packed as fast as found


class Packer(Protocol):
    """Takes the tensors of linear layers, part by part."""

    def pack(self, tensor: Tensor, order: NDArray[np.int64] | None, form: WeightForm) -> Linear:
        """The weight of a tensor, packed in `form`; its rows are brought into `order` first where one is given."""
        ...

    def pack_stack(self, tensors: tuple[Tensor, ...], form: WeightForm) -> Stack:
        """The weights of a projection of all experts of a layer, see `Ops.pack_stack`."""
        ...

    def end_part(self) -> None:
        """What follows belongs to the next part."""
        ...


@dataclass(frozen=True, slots=True)
class EagerPacker:
    """Packs at once."""

    ops: Ops

    def pack(self, tensor: Tensor, order: NDArray[np.int64] | None, form: WeightForm) -> Linear:
        """As `Packer.pack`."""
        return self.ops.pack(in_order(tensor, order), form)

    def pack_stack(self, tensors: tuple[Tensor, ...], form: WeightForm) -> Stack:
        """As `Packer.pack_stack`."""
        return self.ops.pack_stack(tuple(tensor.stored() for tensor in tensors), form)

    def end_part(self) -> None:
        """Nothing waits."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One weight or stack to be filled. `name` is its section of the cache, `order` that of its rows, see `Packer.pack`."""

    name: str
    linear: "NativeLinear"
    tensors: tuple[Tensor, ...]
    order: NDArray[np.int64] | None


@dataclass(slots=True)
class BackgroundPacker:
    """Hands out empty weights, and fills them in a thread after `start`; whoever computes calls `wait` for each part first."""

    ops: NativeOps
    _parts: list[list[_Job]] = field(default_factory=lambda: [[]], init=False)
    _n_ready: int = field(default=0, init=False)
    _error: BaseException | None = field(default=None, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _is_stopping: bool = field(default=False, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _process: int = field(default_factory=os.getpid, init=False)

    def pack(self, tensor: Tensor, order: NDArray[np.int64] | None, form: WeightForm) -> Linear:
        """An empty weight."""
        return self._add(self.ops.empty_linear(tensor, form), (tensor,), order)

    def pack_stack(self, tensors: tuple[Tensor, ...], form: WeightForm) -> Stack:
        """An empty stack."""
        return self._add(self.ops.empty_stack(tensors, form), tensors, None)

    def _add(self, linear: "NativeLinear", tensors: tuple[Tensor, ...], order: NDArray[np.int64] | None) -> "NativeLinear":
        self._parts[-1].append(_Job(str(sum(map(len, self._parts))), linear, tensors, order))
        return linear

    def end_part(self) -> None:
        """What follows belongs to the next part."""
        self._parts.append([])

    def start(self, cache: CacheStore | None, identity: Callable[[], str], source: str, progress: Progress | None) -> bool:
        """Begin to fill the weights. Returns whether they come from the cache.

        `identity` gives the digits that stand for the tensors' bytes, `source` names them in the cache. `progress(done_bytes,
        total_bytes, tensor)` is called from the thread that packs, and not for what is mapped.
        """
        self._parts = [part for part in self._parts if part]
        jobs = [job for part in self._parts for job in part]
        total_bytes = sum(job.linear.size_bytes for job in jobs)
        found, writer = None, None
        if cache is not None and total_bytes >= _MIN_CACHED_BYTES:
            key = self._key(identity())
            kind = "rounded" if any(job.linear.is_int4 for job in jobs) else "weights"  # a new entry replaces those of its kind
            found = cache.open(kind, key, check_sections=False)
            if found is None:
                sizes = {job.name: job.linear.size_bytes for job in jobs}
                writer = cache.create(kind, key, {"source": source}, sizes)
        self._thread = threading.Thread(target=self._run, args=(found, writer, progress), name="samovar-packing")
        self._thread.start()
        return found is not None

    def wait(self, part: int) -> None:
        """Return when part `part` (a layer's number, or the number of layers for the head) can be computed on.

        Raises what went wrong with it: OutOfMemory, or FormatError for a file that was cut short meanwhile; SamovarError in a
        process that was forked off before the part was ready.
        """
        if self._n_ready > part:
            return
        if self._process != os.getpid():  # the thread that packs is not here
            raise SamovarError(
                "this process was forked while the model was being loaded: call packer.join() first, or load here"
            )
        with self._changed:
            self._changed.wait_for(lambda: self._n_ready > part or self._error is not None)
        if self._n_ready <= part and self._error is not None:
            raise self._error

    @property
    def is_done(self) -> bool:
        """Whether all parts are ready, or will never be."""
        return self._n_ready >= len(self._parts) or self._error is not None

    def stop(self) -> None:
        """Give up after the part in work, and wait for that."""
        self._is_stopping = True
        self.join()

    def join(self) -> None:
        """Wait until all is packed and written to the cache. A failure is left for `wait`."""
        if self._thread is not None:
            self._thread.join()

    def _key(self, identity: str) -> str:
        """Stands for all that decides the packed bytes: the source, what is taken from it in which order, and the layout."""
        plan = [
            (
                *(tensor.name, tensor.type.name, tensor.shape, tensor.has_input_order),
                *(job.order is not None, part, job.linear.is_int4),
            )
            for part, jobs in enumerate(self._parts)
            for job in jobs
            for tensor in job.tensors
        ]
        return hashlib.sha256(json.dumps([identity, packed_layout(), plan]).encode()).hexdigest()

    def _run(self, found: CacheFile | None, writer: CacheWriter | None, progress: Progress | None) -> None:
        jobs = [job for part in self._parts for job in part]
        done_bytes, total_bytes = 0, sum(job.linear.size_bytes for job in jobs)
        try:
            # Half of the threads check, so that the others can compute on what is ready.
            names, n_threads = [job.name for job in jobs], max(1, self.ops.n_threads // 2)
            checker = None if found is None else found.start_checks(names, n_threads)
            for part in self._parts:
                if found is not None and checker is not None and not all(checker.is_sound(int(job.name)) for job in part):
                    found.discard()
                    found = checker = None
                for job in part:
                    if self._is_stopping or not threading.main_thread().is_alive():
                        raise SamovarError("packing the weights was stopped: load the model again")
                    if found is not None:
                        job.linear.adopt(found.sections[job.name])
                    else:
                        self.ops.fill(job.linear, (in_order(tensor, job.order) for tensor in job.tensors))
                    for tensor in job.tensors:
                        tensor.release()
                    done_bytes += job.linear.size_bytes
                    if progress is not None and found is None:
                        progress(done_bytes, total_bytes, job.tensors[-1].name)
                with self._changed:
                    self._n_ready += 1
                    self._changed.notify_all()
            if writer is not None:
                self._write(writer, jobs)
        except BaseException as error:  # raised again where the weights are waited for
            with self._changed:
                self._error = error
                self._changed.notify_all()
            if writer is not None:
                writer.abandon()
        self._parts = [[] for _ in self._parts]  # the tensors need not be kept

    def _write(self, writer: CacheWriter, jobs: list[_Job]) -> None:
        """Put the weights into the cache: after the last is packed, since a disk may be slow, and nobody waits any more.

        A process that ends meanwhile ends after this, or no short run would ever find its weights in the cache.
        """
        for job in jobs:
            if self._is_stopping:
                raise SamovarError("caching the weights was stopped: load the model again")
            writer.write(job.name, job.linear.packed_bytes())
        writer.finish()


def in_order(tensor: Tensor, order: NDArray[np.int64] | None) -> StoredTensor:
    """The tensor with its rows in the order given. Raises FormatError where its parts make no weight."""
    return tensor.stored() if order is None else tensor.stored().take_rows(order)
