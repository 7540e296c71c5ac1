"""Which files of a repository are taken for a model."""

import pytest

from samovar.errors import DownloadError, ModelNotFound, UnsupportedModel
from samovar.formats.choose_files import Choice, choose_files
from samovar.formats.remote import Listing, RemoteFile


def chosen(*paths: str, selector: str | None = None, index: bytes = b"{}") -> Choice:
    files = tuple(RemoteFile(path=path, local_path=path, url=path, size_bytes=1) for path in paths)
    listing = Listing(
        hub="huggingface", endpoint="e", repo="o/r", revision="c", licence=None, files=files, denied="accept its terms"
    )
    return choose_files(listing, selector, lambda _: index)


def names(choice: Choice) -> list[str]:
    return [file.local_path for file in choice.files]


@pytest.mark.parametrize(
    ("paths", "selector", "expected"),
    [
        (["x-Q8_0.gguf"], None, "x-Q8_0.gguf"),
        (["x-Q8_0.gguf", "x-Q4_K_M.gguf", "x-F16.gguf"], None, "x-Q4_K_M.gguf"),
        (["x-Q8_0.gguf", "x-F16.gguf"], None, "x-Q8_0.gguf"),
        (["x-Q8_0.gguf", "mmproj-x-F16.gguf", "imatrix.gguf"], None, "x-Q8_0.gguf"),
        (["x-Q4_0.gguf", "x-Q4_K_M.gguf"], "q4_0", "x-Q4_0.gguf"),
        (["x-UD-Q4_K_XL.gguf", "x-Q4_K_M.gguf"], "ud-q4_k_xl", "x-UD-Q4_K_XL.gguf"),
        (["qwen3-0.6b-iq4_nl.gguf", "b.q6_k.gguf"], "IQ4_NL", "qwen3-0.6b-iq4_nl.gguf"),
        (["a/x-Q8_0.gguf", "b/y-Q8_0.gguf"], "b/y-q8_0.gguf", "y-Q8_0.gguf"),
        (["x-bf16.gguf", "x-f16.gguf"], "bf16", "x-bf16.gguf"),
        (["Model.gguf", "config.json"], None, "Model.gguf"),
        (["config.json", "model.safetensors", "x-Q8_0.gguf"], "q8_0", "x-Q8_0.gguf"),
    ],
)
def test_one_gguf_model_is_chosen(paths: list[str], selector: str | None, expected: str) -> None:
    assert names(chosen(*paths, selector=selector)) == [expected]


def test_a_folder_is_preferred_where_both_are_there() -> None:
    assert names(chosen("config.json", "model.safetensors", "x-Q8_0.gguf", "tokenizer.json")) == [
        "config.json", "tokenizer.json", "model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "selector"),
    [
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], None),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "q8_0"),
        (["a-Q2_K.gguf", "a-Q3_K_S.gguf"], None),
    ],
)
def test_several_models_are_named_as_they_can_be_typed(paths: list[str], selector: str | None) -> None:
    with pytest.raises(ModelNotFound, match="name one: o/r:") as caught:
        chosen(*paths, selector=selector)
    offers = str(caught.value).partition("name one: ")[2].split(", ")
    assert [names(chosen(*paths, selector=offer.removeprefix("o/r:"))) for offer in offers] == [[path] for path in paths]


@pytest.mark.parametrize("paths", [[], ["README.md"], ["x-00001-of-00002.gguf"], ["config.json"], ["model.safetensors"]])
def test_a_repository_without_a_model_says_what_it_holds(paths: list[str]) -> None:
    with pytest.raises(ModelNotFound, match="holds no model") as caught:
        chosen(*paths)
    assert (paths[0] if paths else "nothing") in str(caught.value)


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.ckpt"])
def test_pickles_alone_are_refused(pickle: str) -> None:
    with pytest.raises(UnsupportedModel, match="as pickle only"):
        chosen("config.json", "tokenizer.json", pickle)


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": {"a": 5}}', b"\xff", b"[" * 9999],
)
def test_a_spoilt_index_is_named(index: bytes) -> None:
    with pytest.raises(DownloadError, match=r"model\.safetensors\.index\.json"):
        chosen("config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors", index=index)
