"""``benchmarks/decoders.py`` sees a decoder whose pixels differ, and one whose image has another size."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photographs import PHOTOS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / "decoders.py"))


def test_one_byte_of_one_file_is_seen(script: dict[str, Any]) -> None:
    pillow, files = script["pillow"](), [path.read_bytes() for path in PHOTOS[:2]]

    def one_off(data: bytes) -> Any:
        pixels = np.array(pillow(data))
        if data == files[1]:
            pixels[5, 7, 1] ^= 1
        return pixels

    found = script["measure"](files, {"pillow": pillow, "one_off": one_off}, rounds=1)
    assert (found["pillow"]["equal"], found["pillow"]["most"]) == (1, 0)
    assert (found["one_off"]["equal"], found["one_off"]["most"]) == (0.5, 1)
    assert found["pillow"]["times_pillow"] == 1


def test_an_image_of_another_size_ends_the_comparison(script: dict[str, Any]) -> None:
    pillow = script["pillow"]()
    decoders = {"pillow": pillow, "cut": lambda data: np.array(pillow(data))[1:]}
    with pytest.raises(SystemExit, match="cut gives"):
        script["measure"]([PHOTOS[0].read_bytes()], decoders, rounds=1)
