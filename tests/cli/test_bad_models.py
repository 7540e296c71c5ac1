"""Models whose files do not belong together, or are damaged: one line says where, what was found, what was expected and what to
do, and nothing half-written is left."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from samovar.cli.main import run
from samovar.cli.terminal import Streams
from samovar.formats.gguf import read_gguf
from tests.formats.quantised_parts import METHODS
from tests.models.test_quantised_folders import quantised_folder
from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder
from tests.models.tiny_gguf import write_gguf

AGAIN = r"(copy or download|get (both|the config) again)"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound models of each kind."""
    root = tmp_path_factory.mktemp("sound")
    model = random_model(VARIANTS["qwen3-untied"])
    write_folder(model, root / "shards", max_shard_size="100KB")
    for name in ("awq-g32", "gptq-4", "fp8-blocks", "packed-4-group"):
        quantised_folder(root / name, METHODS[name])
    (root / "split").mkdir()
    write_gguf(model, root / "split" / "m.gguf", "Q8_0", tensors_per_file=5)
    (root / "single").mkdir()
    write_gguf(model, root / "single" / "m.gguf", "Q8_0")
    return root


def shard(folder: Path, number: int) -> Path:
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf"))[number]


def config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def quantisation(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        whole = json.loads(path.read_text())
        said = {key: value for key, value in (whole["quantization_config"] | changes).items() if value is not None}
        path.write_text(json.dumps(whole | {"quantization_config": said}))

    return change


def scale(value: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        name = next(name for name in tensors if "layers.0.mlp.up" in name and "scale" in name)
        tensors[name].view(-1)[1] = value
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)

    return change


def gguf_scale(folder: Path) -> None:
    path = folder / "m.gguf"
    data, stored = bytearray(path.read_bytes()), read_gguf(path).tensors["blk.0.ffn_up.weight"].stored()
    at = data.index(stored.data.tobytes())
    data[at + 34 : at + 36] = np.array([np.nan], np.float16).tobytes()
    path.write_bytes(data)


def swap(folder: Path) -> None:
    first, second = shard(folder, 0), shard(folder, 1)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def other_part(folder: Path) -> None:
    write_gguf(random_model(VARIANTS["qwen3-tied-8-to-1"]), folder / "o.gguf", "Q8_0", tensors_per_file=4)
    shutil.copy(sorted(folder.glob("o-*"))[1], sorted(folder.glob("m-*"))[1])


CASES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a shard is missing": ("shards", lambda f: shard(f, 1).unlink(), "1 of 5 weight files are missing: model-00002-of-00005"),
    "shards are swapped": ("shards", swap, "model-00001-of-00005.*holds tensor .* expects in model-00002-of-00005"),
    "a shard is cut": ("shards", lambda f: shard(f, 1).write_bytes(shard(f, 1).read_bytes()[:-9]), "cut short: tensor .* ends"),
    "a shard is a web page": ("shards", lambda f: shard(f, 1).write_text("<html>404 not found"), "no safetensors file"),
    "a part is missing": ("split", lambda f: shard(f, 1).unlink(), "of 5 files, of which these are missing: m-00002-of-00005"),
    "a part of another model": ("split", other_part, r"m-00002-of-.*'split.* is '\d+', and m-00001-of-00005.gguf has '\d+'"),
    "another width": ("shards", config(hidden_size=128), r"embed_tokens.* has shape \[320, 64\]; the config asks for \[320, "),
    "another vocabulary": ("shards", config(vocab_size=400), r"shape \[320, 64\]; the config asks for \[400, 64\]"),
    "more layers": ("shards", config(num_hidden_layers=3, layer_types=None), r"layers.2.* is missing; expected one of shape"),
    "fewer layers": ("shards", config(num_hidden_layers=1, layer_types=None), "tensors that this architecture has no place"),
    "heads that do not divide": ("shards", config(num_key_value_heads=3), "4 attention heads do not divide among 3"),
    **{
        f"{value} as a scale of {name}": (name, scale(value), "up_proj.*scale.* holds an infinity or no number as a scale")
        for name in ("awq-g32", "gptq-4", "fp8-blocks", "packed-4-group")
        for value in (float("nan"), float("inf"))
    },
    "nan as a scale of Q8_0": ("single", gguf_scale, "'blk.0.ffn_up.weight' holds infinite values or such as are no numbers"),
    "groups that do not divide": ("awq-g32", quantisation(group_size=48), "groups of 48 do not divide the 256 inputs of"),
    "groups of another size": ("awq-g32", quantisation(group_size=64), r"shape \[8, 16\]; .* asks for .* shape \[4, 16\]"),
    "a method that is not read": ("awq-g32", quantisation(quant_method="bitsandbytes"), "'bitsandbytes', which is not read"),
    "no method": ("awq-g32", quantisation(quant_method=None), "quantization_config: quant_method is missing; readable: awq"),
}  # fmt: skip
OTHER_ADVICE = ("a method that is not read", "no method")


@pytest.mark.parametrize("case", CASES)
def test_bad_models_are_refused_in_one_line_and_leave_nothing(case: str, models: Path, tmp_path: Path) -> None:
    kind, spoil, words = CASES[case]
    folder = tmp_path / "model"
    shutil.copytree(models / kind, folder)
    spoil(folder)
    source = folder if (folder / "config.json").exists() else shard(folder, 0)
    target = tmp_path / ("out.gguf" if source is folder else "out")
    stderr = io.StringIO()
    streams = Streams(stdin=None, stdout=io.StringIO(), stderr=stderr, environ={"SAMOVAR_ISA": "numpy"})
    assert run(["convert", str(source), str(target)], streams) == 1
    (said,) = stderr.getvalue().splitlines()
    assert said.startswith(f"samovar: error: {tmp_path}")
    assert re.search(words, said), said
    assert re.search("use the model's unquantised folder" if case in OTHER_ADVICE else AGAIN, said), said
    assert not list(tmp_path.glob("out*"))
