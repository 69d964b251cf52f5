from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zoo.export import onnx_cache
from zoo.hub.weights import locate
from zoo.system import hardware


def test_int8_in_the_cache_has_the_bits_that_this_cpu_can_add(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path))
    made: dict[str, int] = {}

    def make(file: Any, precision: str, weight_bits: int, path: Path, hash_file: Path) -> None:
        made[path.name] = weight_bits

    monkeypatch.setattr(onnx_cache, "_make", make)
    for features in ({"avx2"}, {"avx2", "avx512_vnni"}, {"asimd", "asimddp"}, set()):
        monkeypatch.setattr(hardware, "cpu_features", lambda found=features: frozenset(found))
        onnx_cache.cached_onnx(locate("simclr_r18_mini"), "int8")
    assert sorted(made.values()) == [7, 8]  # two files: a folder that another CPU shares keeps both
