"""What a chart of several models shows, as its SVG says it."""

import re
from pathlib import Path

import pytest

from samovar.evals.interval import Estimate
from samovar.evals.quality import Beside, Quality

NAMES = ("Qwen3-4B-Q8_0.gguf", "a-model-with-a-name-that-is-far-too-long-for-any-picture-of-several-panels-Q4_K_M.gguf")


def _quality(name: str, kl: float) -> Quality:
    beside = Beside(
        perplexity_ratio=Estimate(1 + kl, 1 + 0.9 * kl, 1 + 1.1 * kl),
        kl=Estimate(kl, 0.9 * kl, 1.1 * kl),
        kl_99=10 * kl,
        top_1=Estimate(1 - kl / 3, 1 - kl / 2, 1 - kl / 4),
    )
    return Quality(
        model=name, n_tokens=1000, n_windows=2, perplexity=Estimate(9.0), bits_per_byte=Estimate(0.9), beside=beside,
        file_bytes=1 << 30, packed_bytes=1 << 30, bits_per_weight=4.5, weights="stored", kv_type="f16", isa="numpy",
    )  # fmt: skip


def test_long_names_are_shown_by_both_ends_and_no_share_above_100_percent(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from samovar.evals.chart import draw

    found = [_quality(name, kl) for name, kl in zip(NAMES, (0.0009, 0.3), strict=True)]
    draw(tmp_path / "chart.svg", found, reference="Qwen3-4B", text="words")
    words = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "chart.svg").read_text(encoding="utf-8"))
    assert "Qwen3-4B-Q8_0.gguf" in words
    assert "a-model-with-a-nam\u2026panels-Q4_K_M.gguf" in words
    assert not [word for word in words if re.fullmatch(r"1\d\d", word)]
