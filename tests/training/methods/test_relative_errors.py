"""The helper of the comparisons with official codes: each way to compare nothing, or something else, fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from relative_errors import RelativeErrors

REFERENCE = np.array([1.0, -4.0])


def compared(ours: torch.Tensor | None, reference: np.ndarray = REFERENCE) -> RelativeErrors:
    errors = RelativeErrors(torch.float64)
    errors.add("good", torch.tensor([2.0], dtype=torch.float64), np.array([2.0]))
    errors.add("loss", ours, reference)
    return errors


def test_an_error_is_relative_to_the_largest_value(capsys: pytest.CaptureFixture[str]) -> None:
    errors = compared(torch.tensor([1.5, -4.0], dtype=torch.float64))
    errors.require(0.2, ["good", "loss"])
    assert errors.by_name == {"good": 0.0, "loss": 0.125}
    assert "1.2e-01 (loss)" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=r"\('loss', 0.125\)"):
        errors.require(0.125, ["good", "loss"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_fail(value: float) -> None:
    with pytest.raises(AssertionError, match="loss: ours is not finite"):
        compared(torch.tensor([value, -4.0], dtype=torch.float64))
    with pytest.raises(AssertionError, match="loss: the reference is not finite"):
        compared(torch.tensor([1.0, -4.0], dtype=torch.float64), np.array([value, -4.0]))


def test_a_reference_of_zeros_is_compared_absolutely() -> None:
    errors = compared(torch.tensor([0.0, 0.5], dtype=torch.float64), np.zeros(2))
    assert errors.by_name["loss"] == 0.5


def test_nothing_compared_fails() -> None:
    with pytest.raises(AssertionError, match="no name is required"):
        RelativeErrors(torch.float64).require(1e-9, [])
    with pytest.raises(AssertionError, match="instead of"):
        RelativeErrors(torch.float64).require(1e-9, ["loss"])
    with pytest.raises(AssertionError, match="nothing to compare"):
        compared(torch.zeros(0, dtype=torch.float64), np.zeros(0))


def test_names_that_lack_or_were_not_asked_for_fail() -> None:
    errors = compared(torch.tensor([1.0, -4.0], dtype=torch.float64))
    for names in (["good"], ["good", "loss", "gradient"]):
        with pytest.raises(AssertionError, match="instead of"):
            errors.require(1e-9, names)
    with pytest.raises(AssertionError, match="good is compared twice"):
        errors.add("good", torch.zeros(1, dtype=torch.float64), np.zeros(1))


def test_a_missing_array_fails() -> None:
    with pytest.raises(AssertionError, match="ours is missing"):
        compared(None)


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2), (2, 1)])
def test_wrong_shapes_fail(shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="against"):
        compared(torch.ones(shape, dtype=torch.float64))


def test_wrong_dtypes_fail() -> None:
    with pytest.raises(AssertionError, match=r"ours is torch.float32, not torch.float64"):
        compared(torch.tensor([1.0, -4.0]))
    with pytest.raises(AssertionError, match="the reference is int64"):
        compared(torch.tensor([1.0, -4.0], dtype=torch.float64), np.array([1, -4]))
