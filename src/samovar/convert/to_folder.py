"""A GGUF file to a Hugging Face folder: safetensors, config, tokenizer and template. No value changes.

The folder is made beside its place, under the name with `.part`, and gets its name when all is there. What an interrupted run
left is gone on from, shard by shard, where it is of the same source.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from samovar.convert.folder_config import folder_config, generation_config
from samovar.convert.folder_tensors import folder_tensors
from samovar.errors import BadRequest, StoreError
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.hf_folder import CONFIG
from samovar.formats.safetensors_writer import FloatTensorPlan, write_safetensors
from samovar.models.loader import read_config
from samovar.text.tokenizer import Tokenizer
from samovar.text.tokenizer_export import tokenizer_files

Progress = Callable[[int, int, str], None]

MAX_SHARD_BYTES: Final = 4 << 30
_SOURCE: Final = ".source"  # in an unfinished folder: the identity of what it is made of
_SPARE_BYTES: Final = 64 << 20  # beside the tensors: tokenizer and configs


def write_folder(
    checkpoint: GgufCheckpoint, target: Path, progress: Progress, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write the folder `target`, which must not be there.

    Raises BadRequest where it is, StoreError where the disk refuses or is too small, UnsupportedModel and FormatError for
    what cannot be converted.
    """
    if target.exists():
        raise BadRequest(f"{target}: is there already; give a name that is not, or remove it")
    config = read_config(checkpoint)
    tokenizer = Tokenizer.from_gguf(checkpoint.metadata, origin=str(checkpoint.path))
    plans, main = folder_tensors(checkpoint, config)
    files = {
        CONFIG: _json(folder_config(checkpoint, tokenizer, main)),
        "generation_config.json": _json(generation_config(checkpoint, tokenizer)),
        **tokenizer_files(checkpoint.metadata, str(checkpoint.path), config.max_context),
    }
    total = sum(plan.size_bytes for plan in plans)
    part = target.with_name(target.name + ".part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        with _held(part):
            _start(part, checkpoint.identity)
            _write_shards(part, _shards(plans, max_shard_bytes), total, progress)
            for name, text in files.items():
                (part / name).write_text(text, encoding="utf-8")
            (part / _SOURCE).unlink()
            part.rename(target)
    except OSError as error:
        raise StoreError(f"{error.filename or part}: cannot be written: {error.strerror or error}") from None


@contextmanager
def _held(part: Path) -> Iterator[None]:
    """Hold the unfinished folder for this process. Raises StoreError where another one does."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreError(f"{part}: another process is writing it; wait for it, or choose another name") from None
    finally:
        os.close(descriptor)


def _start(part: Path, identity: str) -> None:
    """Keep finished shards of the same source, and nothing else."""
    note = part / _SOURCE
    if not (note.exists() and note.read_text(encoding="utf-8") == identity):
        for path in part.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        note.write_text(identity, encoding="utf-8")


def _shards(plans: Sequence[FloatTensorPlan], max_bytes: int) -> list[list[FloatTensorPlan]]:
    """Tensors in order, as many in a shard as it holds."""
    shards: list[list[FloatTensorPlan]] = [[]]
    size = 0
    for plan in plans:
        if shards[-1] and size + plan.size_bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(plan)
        size += plan.size_bytes
    return shards


def _write_shards(part: Path, shards: Sequence[Sequence[FloatTensorPlan]], total: int, progress: Progress) -> None:
    """Write the shards that are not there, and the index where there are several."""
    n = len(shards)
    names = ["model.safetensors"] if n == 1 else [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    missing = [(name, shard) for name, shard in zip(names, shards, strict=True) if not (part / name).exists()]
    needed = sum(plan.size_bytes for _, shard in missing for plan in shard) + _SPARE_BYTES
    if (free := shutil.disk_usage(part).free) < needed:
        raise StoreError(
            f"{part}: {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} are free; free some, or write elsewhere"
        )
    done = total - needed + _SPARE_BYTES
    for name, shard in missing:

        def written(n_bytes: int, name: str = name) -> None:
            nonlocal done
            done += n_bytes
            progress(done, total, name)

        write_safetensors(part / name, shard, written)
    if n > 1:
        where = {plan.name: name for name, shard in zip(names, shards, strict=True) for plan in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (part / "model.safetensors.index.json").write_text(_json(index), encoding="utf-8")


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
