"""Sizes of random crops against the three codes, image by image and draw by draw."""

from __future__ import annotations

from math import exp, floor, log, sqrt

import numpy as np
import pytest

from zoo.transforms.random_crop import TF_TRIES, TRIES, central_offset, clamped_size, retried_size, tf_size

SIZES = [(375, 500), (500, 375), (40, 900), (900, 40), (64, 64), (7, 5), (1, 1), (1, 300), (333, 17)]
AREAS = [(0.08, 1.0), (0.2, 1.0), (0.05, 0.14), (1.0, 1.0)]
REPEATS = 60


def draws(tries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Heights, widths, u and v of every size, several times."""
    rng = np.random.default_rng(0)
    heights, widths = np.repeat(np.array(SIZES, np.int64), REPEATS, axis=0).T
    u, v = rng.random((2, len(heights), tries))
    return heights, widths, u, v


def log_uniform(area: tuple[float, float], height: int, width: int, u: float, v: float) -> tuple[int, int]:
    """Height and width as torchvision's RandomResizedCrop and BYOL's code draw them."""
    target = height * width * (area[0] + u * (area[1] - area[0]))
    aspect = exp(log(3 / 4) + v * (log(4 / 3) - log(3 / 4)))
    return round(sqrt(target / aspect)), round(sqrt(target * aspect))


@pytest.mark.parametrize("area", AREAS)
def test_byol_s_rule(area: tuple[float, float]) -> None:
    heights, widths, u, v = draws(1)
    found = clamped_size(area, heights, widths, u[:, 0], v[:, 0])
    for n, (height, width) in enumerate(zip(heights, widths, strict=True)):
        h, w = log_uniform(area, height, width, u[n, 0], v[n, 0])
        assert (found[0][n], found[1][n]) == (min(max(h, 1), height), min(max(w, 1), width))


@pytest.mark.parametrize("area", AREAS)
def test_torchvision_s_rule(area: tuple[float, float]) -> None:
    """``RandomResizedCrop.get_params``, with its fallback."""
    assert TRIES == 10
    heights, widths, u, v = draws(TRIES)
    found = retried_size(area, heights, widths, u, v)
    for n, (height, width) in enumerate(zip(heights, widths, strict=True)):
        tried = [log_uniform(area, height, width, *pair) for pair in zip(u[n], v[n], strict=True)]
        fitting = [(h, w) for h, w in tried if 0 < w <= width and 0 < h <= height]
        if fitting:
            expected = (*fitting[0], False)
        elif width / height < 3 / 4:
            expected = (round(width / (3 / 4)), width, True)
        elif width / height > 4 / 3:
            expected = (height, round(height * (4 / 3)), True)
        else:
            expected = (height, width, True)
        assert tuple(each[n] for each in found) == expected
    assert found[2].any()


@pytest.mark.parametrize("area", AREAS)
def test_tensorflow_s_rule(area: tuple[float, float]) -> None:
    """``GenerateRandomCrop`` of ``sample_distorted_bounding_box_op.cc``, called with min_object_covered .1."""
    assert TF_TRIES == 100
    heights, widths, u, v = draws(TF_TRIES)
    found = tf_size(area, heights, widths, u, v)
    whole = 0
    for n, (height, width) in enumerate(zip(heights, widths, strict=True)):
        expected = next(filter(None, map(generated(area, height, width), u[n], v[n])), (height, width))
        assert (found[0][n], found[1][n]) == expected
        whole += expected == (height, width)
    assert whole > 0


def generated(area: tuple[float, float], height: int, width: int):  # type: ignore[no-untyped-def]
    least, most = (part * height * width for part in area)

    def one(u: float, v: float) -> tuple[int, int] | None:
        aspect = 3 / 4 + u * (4 / 3 - 3 / 4)
        h, highest = round(sqrt(least / aspect)), round(sqrt(most / aspect))
        if round(highest * aspect) > width:
            highest = int((width + 0.5 - 1e-7) / aspect)
        highest = min(highest, height)
        h = min(h, highest)
        h += floor(v * (highest - h + 1))  # Uniform(highest - h + 1)
        if round(h * aspect) * h < least:
            h += 1
        if round(h * aspect) * h > most:
            h -= 1
        w = round(h * aspect)
        fits = least <= w * h <= most and 0 < w <= width and 0 < h <= height
        return (h, w) if fits and w * h >= 0.1 * height * width else None

    return one


def test_the_middle() -> None:
    assert central_offset(np.array([10, 11, 5]), np.array([4, 4, 5])).tolist() == [3, 3, 0]
