"""What can be named, and what a name of the family stands for."""

import pytest

from samovar.errors import ModelNotFound
from samovar.formats.family import FAMILY
from samovar.formats.model_reference import HubReference, UrlReference, parse_reference


@pytest.mark.parametrize(
    ("text", "hub", "selector", "revision"),
    [
        ("o/r", "huggingface", None, None),
        ("hf:o/r", "huggingface", None, None),
        ("HF:o/r:Q4_K_M", "huggingface", "Q4_K_M", None),
        ("o/r:sub/x.gguf@v1.0", "huggingface", "sub/x.gguf", "v1.0"),
        ("o/r@refs/pr/1", "huggingface", None, "refs/pr/1"),
        ("ms:o/r:q8_0", "modelscope", "q8_0", None),
        ("modelscope:o/r@master", "modelscope", None, "master"),
        ("https://huggingface.co/o/r", "huggingface", None, None),
        ("https://huggingface.co/o/r/tree/main", "huggingface", None, None),
        ("https://hf.co/o/r/blob/main/sub/x.gguf", "huggingface", "sub/x.gguf", None),
        ("https://huggingface.co/o/r/resolve/v2/x.gguf?download=true", "huggingface", "x.gguf", "v2"),
        ("https://www.modelscope.cn/models/o/r/summary", "modelscope", None, None),
        ("https://modelscope.cn/models/o/r/files", "modelscope", None, None),
        ("https://modelscope.cn/models/o/r/file/view/master/x.gguf?status=2", "modelscope", "x.gguf", None),
        ("https://modelscope.cn/models/o/r/resolve/master/x.gguf", "modelscope", "x.gguf", None),
    ],
)
def test_repositories_are_named_in_many_ways(text: str, hub: str, selector: str | None, revision: str | None) -> None:
    found = parse_reference(text)
    assert isinstance(found, HubReference)
    assert (found.hub, found.repo, found.selector, found.revision) == (hub, "o/r", selector, revision)
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "url", ["https://host/x.gguf", "http://127.0.0.1:80/x.gguf?a=b", "https://huggingface.co/datasets/a/b/x.gguf"]
)
def test_other_addresses_stay_addresses(url: str) -> None:
    assert parse_reference(url) == UrlReference(url=url)


@pytest.mark.parametrize(
    "text",
    ["qwen3:0.6b", "", "name", "a/b/c", "./o/r", "/o/r", "~/o/r", "o/..", "../r", "o/r:", "o/r@", "o/r:../x.gguf", "o/r@../v",
     "o/r:/etc/passwd", "o /r", "o/r\n", "o/r@v1@v2"],
)  # fmt: skip
def test_what_has_none_of_the_forms_is_no_reference(text: str) -> None:
    assert parse_reference(text) is None


@pytest.mark.parametrize(
    "text", ["hf:owner", "ms:a/b/c", "hf:", "https://", "https://[::1/x", "https://host:port/x", "https://a b/x"]
)
def test_a_spoilt_form_is_named(text: str) -> None:
    with pytest.raises(ModelNotFound, match="is expected"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("name", "repo", "quantisation"),
    [
        ("qwen3:0.6b", "Qwen/Qwen3-0.6B-GGUF", "Q8_0"),
        ("qwen3:0.6b-q8_0", "Qwen/Qwen3-0.6B-GGUF", "Q8_0"),
        ("qwen3:1.7b-gptq-int8", "Qwen/Qwen3-1.7B-GPTQ-Int8", None),
        ("qwen3:8b", "Qwen/Qwen3-8B-GGUF", "Q4_K_M"),
        ("qwen3:8b-awq", "Qwen/Qwen3-8B-AWQ", None),
        ("qwen3:14b-base", "Qwen/Qwen3-14B-Base", None),
        ("qwen3:32b-fp8", "Qwen/Qwen3-32B-FP8", None),
        ("qwen3:30b-a3b-q4_k_m", "Qwen/Qwen3-30B-A3B-GGUF", "Q4_K_M"),
        ("qwen3:30b", "Qwen/Qwen3-30B-A3B-GGUF", "Q4_K_M"),
        ("qwen3:235b-a22b-gptq-int4", "Qwen/Qwen3-235B-A22B-GPTQ-Int4", None),
        ("qwen3:4b-instruct-2507", "Qwen/Qwen3-4B-Instruct-2507", None),
        ("qwen3:30b-a3b-thinking-2507-fp8", "Qwen/Qwen3-30B-A3B-Thinking-2507-FP8", None),
        ("qwen3-coder:30b", "Qwen/Qwen3-Coder-30B-A3B-Instruct", None),
        ("qwen3-coder:480b-a35b-fp8", "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", None),
        ("qwen3-embedding:0.6b", "Qwen/Qwen3-Embedding-0.6B-GGUF", "Q8_0"),
        ("qwen3-embedding:8b-bf16", "Qwen/Qwen3-Embedding-8B", None),
        ("qwen3-reranker:4b", "Qwen/Qwen3-Reranker-4B", None),
    ],
)
def test_names_of_the_family_lead_to_official_repositories(name: str, repo: str, quantisation: str | None) -> None:
    assert (FAMILY[name].repo, FAMILY[name].quantisation) == (repo, quantisation)


def test_every_name_of_the_family_is_lower_case_and_of_the_organisation_qwen() -> None:
    assert all(name == name.lower() and entry.repo.startswith("Qwen/Qwen3-") for name, entry in FAMILY.items())
