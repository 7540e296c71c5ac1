"""The Qwen3 family by short names: which repository and file each name stands for. Both hubs use the same repository names.

A name without a quantisation is the GGUF file that Qwen publishes for it (Q8_0 for 0.6B and 1.7B, Q4_K_M from 4B on), or, where
there is none, the weights as released. Sources: the collections of the organisation Qwen at Hugging Face and ModelScope.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from samovar.formats.model_reference import HubReference
from samovar.formats.remote import Hub


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyEntry:
    """A repository, and the quantisation of it where it holds several."""

    repo: str
    quantisation: str | None = None

    def at(self, hub: Hub) -> HubReference:
        """The entry at one of the hubs."""
        return HubReference(hub=hub, repo=self.repo, selector=self.quantisation)


Family = Mapping[str, FamilyEntry]

_SMALL: Final = ("Q8_0",)
_USUAL: Final = ("Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")

# size: repository, quantisations of its GGUF twin (the default first), other formats that Qwen publishes
_QWEN3: Final[tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("0.6b", "Qwen3-0.6B", _SMALL, ("FP8", "GPTQ-Int8")),
    ("1.7b", "Qwen3-1.7B", _SMALL, ("FP8", "GPTQ-Int8")),
    ("4b", "Qwen3-4B", _USUAL, ("FP8", "AWQ")),
    ("8b", "Qwen3-8B", _USUAL, ("FP8", "AWQ")),
    ("14b", "Qwen3-14B", _USUAL, ("FP8", "AWQ")),
    ("32b", "Qwen3-32B", _USUAL, ("FP8", "AWQ")),
    ("30b-a3b", "Qwen3-30B-A3B", _USUAL, ("FP8", "GPTQ-Int4")),
    ("235b-a22b", "Qwen3-235B-A22B", _USUAL, ("FP8", "GPTQ-Int4")),
)
_BASE: Final = ("0.6b", "1.7b", "4b", "8b", "14b", "30b-a3b")

# name: repository, whose FP8 twin has its own
_WITH_FP8: Final = {
    "qwen3:4b-instruct-2507": "Qwen3-4B-Instruct-2507",
    "qwen3:4b-thinking-2507": "Qwen3-4B-Thinking-2507",
    "qwen3:30b-a3b-instruct-2507": "Qwen3-30B-A3B-Instruct-2507",
    "qwen3:30b-a3b-thinking-2507": "Qwen3-30B-A3B-Thinking-2507",
    "qwen3:235b-a22b-instruct-2507": "Qwen3-235B-A22B-Instruct-2507",
    "qwen3:235b-a22b-thinking-2507": "Qwen3-235B-A22B-Thinking-2507",
    "qwen3-coder:30b-a3b": "Qwen3-Coder-30B-A3B-Instruct",
    "qwen3-coder:480b-a35b": "Qwen3-Coder-480B-A35B-Instruct",
    "qwen3-next:80b-a3b": "Qwen3-Next-80B-A3B-Instruct",
    "qwen3-next:80b-a3b-instruct": "Qwen3-Next-80B-A3B-Instruct",
    "qwen3-next:80b-a3b-thinking": "Qwen3-Next-80B-A3B-Thinking",
}
_EMBEDDING_SIZES: Final[dict[str, tuple[str, ...]]] = {
    "0.6b": ("Q8_0", "F16"),
    "4b": ("Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0", "F16"),
    "8b": ("Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0", "F16"),
}
_SHORTER: Final = {"30b-a3b": "30b", "235b-a22b": "235b", "480b-a35b": "480b", "80b-a3b": "80b"}


def _with_gguf(name: str, repo: str, quantisations: tuple[str, ...]) -> Iterator[tuple[str, FamilyEntry]]:
    """The names of a repository that has a twin with GGUF files."""
    gguf = f"Qwen/{repo}-GGUF"
    yield name, FamilyEntry(repo=gguf, quantisation=quantisations[0])
    for quantisation in quantisations:
        yield f"{name}-{quantisation.lower()}", FamilyEntry(repo=gguf, quantisation=quantisation)
    yield f"{name}-bf16", FamilyEntry(repo=f"Qwen/{repo}")


def _long_names() -> Iterator[tuple[str, FamilyEntry]]:
    for size, repo, quantisations, formats in _QWEN3:
        yield from _with_gguf(f"qwen3:{size}", repo, quantisations)
        for kind in formats:
            yield f"qwen3:{size}-{kind.lower()}", FamilyEntry(repo=f"Qwen/{repo}-{kind}")
        if size in _BASE:
            yield f"qwen3:{size}-base", FamilyEntry(repo=f"Qwen/{repo}-Base")
    for name, repo in _WITH_FP8.items():
        yield name, FamilyEntry(repo=f"Qwen/{repo}")
        yield f"{name}-fp8", FamilyEntry(repo=f"Qwen/{repo}-FP8")
    for size, quantisations in _EMBEDDING_SIZES.items():
        yield from _with_gguf(f"qwen3-embedding:{size}", f"Qwen3-Embedding-{size.upper()}", quantisations)
        yield f"qwen3-reranker:{size}", FamilyEntry(repo=f"Qwen/Qwen3-Reranker-{size.upper()}")


def _family() -> Iterator[tuple[str, FamilyEntry]]:
    for name, entry in _long_names():
        yield name, entry
        for long, short in _SHORTER.items():
            if long in name:
                yield name.replace(long, short), entry


FAMILY: Final[Family] = dict(_family())
