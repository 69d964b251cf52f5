from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zoo.export import onnx_cache
from zoo.hub.weights import locate
from zoo.system import hardware
from zoo.system.atomic_files import atomic_write_bytes


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


def test_a_long_name_gives_a_file_that_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, random_weights: Path
) -> None:
    """File systems count bytes; 60 characters of four bytes fit, and their temporary file too."""
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "onnx").mkdir(parents=True)
    monkeypatch.setattr(onnx_cache, "_make", lambda *args: atomic_write_bytes(args[3], b"graph"))
    weights = tmp_path / f"{'𓃠' * 60}.safetensors"
    weights.symlink_to(random_weights)
    assert onnx_cache.cached_onnx(locate(weights), "fp32").read_bytes() == b"graph"
