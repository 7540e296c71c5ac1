"""A GGUF file to a Hugging Face folder: safetensors, config, tokenizer and template. No value changes; for what a folder
holds in another form see `forms`.

The folder is made beside its place, under the name with `.part`, and gets its name when all is there. What an interrupted run
left is gone on from, shard by shard, where it is of the same source. A folder of that name that no run made is left alone.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

from samovar.convert.card import CARD, card_of
from samovar.convert.differences import left_out
from samovar.convert.folder_config import folder_config, generation_config
from samovar.convert.folder_tensors import folder_tensors, is_predicting_layer
from samovar.convert.text_scoring import TextScoring, text_scoring
from samovar.errors import BadRequest, FormatError, StoreError, UnsupportedModel
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.hf_folder import CONFIG
from samovar.formats.part_file import GO_ON, disk_reason
from samovar.formats.safetensors_writer import FloatTensorPlan, write_safetensors
from samovar.formats.sentence_files import sentence_texts
from samovar.models.blocks import rounded_scale
from samovar.models.config import DecoderConfig
from samovar.models.loader import read_config
from samovar.models.outputs import VOCABULARY
from samovar.models.tensor_check import check_tensors
from samovar.tensors.dtypes import F32, TensorType
from samovar.text.control_tokens import looks_like_markup
from samovar.text.gguf_vocabulary import TokenKind
from samovar.text.tokenizer import Tokenizer
from samovar.text.tokenizer_export import tokenizer_files

Progress = Callable[[int, int, str], None]

MAX_SHARD_BYTES: Final = 4 << 30
_SOURCE: Final = ".source"  # in an unfinished folder: the identity of what it is made of
_IDENTITY: Final = re.compile("[0-9a-f]{64}")
_SPARE_BYTES: Final = 64 << 20  # beside the tensors: tokenizer and configs


def write_folder(
    checkpoint: GgufCheckpoint, target: Path, progress: Progress, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> tuple[str, ...]:
    """Write the folder `target`, which must not be there, and return what a user should know of it, a line each.

    Raises BadRequest where it is, StoreError where the disk refuses or is too small or a folder of another origin has the name
    of the unfinished one, UnsupportedModel and FormatError for what cannot be converted; nothing is kept after those two.
    """
    if target.exists():
        raise BadRequest(
            f"{target}: is there already, and folders are never replaced; give a name that is not there, or remove it"
        )
    config = read_config(checkpoint)
    check_tensors(checkpoint)
    scoring = text_scoring(checkpoint, config)
    if scoring.score_ids is not None:
        config = replace(config, outputs=VOCABULARY)  # the classifier repeats two rows of the head
    plans, main = folder_tensors(checkpoint, config)
    tokenizer = Tokenizer.from_gguf(checkpoint.metadata, origin=str(checkpoint.path))
    files = _texts(checkpoint, config, tokenizer, main, scoring)
    total = sum(plan.size_bytes for plan in plans)
    part = _part_of(target)
    try:
        _refuse_foreign(part)
        part.mkdir(parents=True, exist_ok=True)
        with _held(part):
            _start(part, checkpoint.identity)
            try:
                _write_shards(part, _shards(plans, max_shard_bytes), total, progress)
            except (FormatError, UnsupportedModel):
                shutil.rmtree(part)
                raise
            for name, text in files.items():
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).write_text(text, encoding="utf-8")
            (part / _SOURCE).unlink()
            part.rename(target)
    except OSError as error:
        raise StoreError(f"{error.filename or part}: cannot be written: {disk_reason(error, target.parent)}") from None
    lines = _rounded_scale(checkpoint, config) + _marked_by_look(checkpoint, tokenizer)
    lines += left_out(sum(is_predicting_layer(name, config) for name in checkpoint.tensors))
    lines += _rounded_forms(sum(bool(plan.metadata) for plan in plans))
    if config.outputs.keeps_head:
        lines += ("the output head, which the classifier stands in for, is left out: a classifier of transformers has none",)
    return lines


def _texts(
    checkpoint: GgufCheckpoint, config: DecoderConfig, tokenizer: Tokenizer, main: TensorType, scoring: TextScoring
) -> dict[str, str]:
    """The texts of all files beside the tensors, by their paths in the folder."""
    files = {
        CONFIG: _json(folder_config(checkpoint, config, tokenizer, main, scoring)),
        "generation_config.json": _json(generation_config(checkpoint, tokenizer)),
        **tokenizer_files(checkpoint.metadata, str(checkpoint.path), config.max_context),
    }
    if scoring.files is not None:
        files |= sentence_texts(scoring.files, config.d_model)
    if (card := card_of(checkpoint.metadata)) is not None:
        files[CARD] = card
    return files


def _rounded_forms(n_tensors: int) -> tuple[str, ...]:
    """A line where a folder's form of vectors does not make to the bit what the file holds."""
    if not n_tensors:
        return ()
    return (
        f"{n_tensors} vectors are rounded in the folder, which holds 1 less than the file's weights of centred norms, and "
        "logarithms of its rates; the file's own values are kept in the safetensors' metadata, and come back in a GGUF file",
    )


def _rounded_scale(checkpoint: GgufCheckpoint, config: DecoderConfig) -> tuple[str, ...]:
    """A line where embeddings are multiplied by a factor that is rounded to their type, which is another one in the folder."""
    embedding = checkpoint.tensors["token_embd.weight"].stored()
    before, after = (rounded_scale(config.embedding_scale, kind) for kind in (embedding.type, F32))
    if embedding.type.is_float or before == after:
        return ()
    return (
        f"embeddings are multiplied by {before:.6g} with these weights, and by {after:.6g} with the folder's: transformers "
        "rounds the factor to the type of the weights",
    )


def _marked_by_look(checkpoint: GgufCheckpoint, tokenizer: Tokenizer) -> tuple[str, ...]:
    """A line where tokens are special of which the file does not tell whether the release has them so. Those that end or begin
    texts, and those of the template, are markup in any case; a file with others of that look as text does tell."""
    kinds = cast(list[int], checkpoint.metadata["tokenizer.ggml.token_type"])  # the tokenizer has checked it
    alike = {text: i for text, i in tokenizer.control_tokens.items() if looks_like_markup(text)}
    if any(kinds[i] != TokenKind.CONTROL for i in alike.values()):
        return ()
    used = (*tokenizer.special_tokens.values(), str(checkpoint.metadata.get("tokenizer.chat_template", "")))
    marked = [text for text, i in alike.items() if i not in tokenizer.eos_ids and not any(text in known for known in used)]
    if not marked:
        return ()
    shown = ", ".join(marked[:3]) + (f" and {len(marked) - 3} more" if len(marked) > 3 else "")
    return (
        f"special in the folder, as in the GGUF file: {shown}; converters to GGUF flag all that looks like markup, and the "
        "file does not tell which of these the release's own tokenizer.json shows in answers",
    )


def is_begun(target: Path) -> bool:
    """Whether there is an unfinished folder with shards that a later run goes on from."""
    part = _part_of(target)
    try:
        return _is_own(part) and any(part.glob("*.safetensors"))
    except OSError:
        return False


def _part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _is_own(part: Path) -> bool:
    """Whether a run of ours made this folder: it holds the note of one."""
    note = part / _SOURCE
    if part.is_symlink() or not part.is_dir() or note.is_symlink() or not note.is_file():
        return False
    with note.open("rb") as file:
        return _IDENTITY.fullmatch(file.read(65).decode("ascii", "replace")) is not None


def _refuse_foreign(part: Path) -> None:
    """Raise StoreError where something that is not ours has the name of the unfinished folder; an empty folder may be ours."""
    is_plain = part.is_dir() and not part.is_symlink()
    if not os.path.lexists(part) or _is_own(part) or (is_plain and not any(part.iterdir())):
        return
    raise StoreError(
        f"{part}: a {'folder' if is_plain else 'file'} that Samovar did not write is where it keeps what is unfinished; "
        "move it away, or choose another name"
    )


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
    _refuse_foreign(part)  # once more: the folder is held from here on
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
        raise StoreError(f"{part}: {needed / 1e9:.1f} GB are still to be written, and {free / 1e9:.1f} are free; {GO_ON}")
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
