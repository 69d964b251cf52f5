"""The monitor tells a collapsed network from a healthy one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny

from training.methods import build_method
from training.monitoring import collapse
from training.recipes.config import Views
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError

CPU = torch.device("cpu")


def test_spread_is_one_for_isotropic_and_zero_for_constant_outputs() -> None:
    torch.manual_seed(0)
    assert collapse.output_spread(torch.randn(4000, 64)) == pytest.approx(1, abs=0.02)
    assert collapse.output_spread(torch.ones(100, 64) * 3) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_fresh_network_is_healthy_and_stays_in_train_mode(labelled_folder: Path, labelled: bool) -> None:
    dataset = open_dataset(labelled_folder)
    dataset = dataset if labelled else replace(dataset, labels=None)
    method = build_method(tiny("byol"))
    measured = collapse.measure_outputs(method, dataset, views=Views(size=32), device=CPU)
    assert measured.spread > collapse.COLLAPSE_SPREAD
    assert (measured.knn is not None) == labelled
    assert method.training


def test_outputs_that_are_not_finite_are_one_line(labelled_folder: Path) -> None:
    """The weights are finite: the update passed every check of its own."""
    method = build_method(tiny("byol"))
    with torch.no_grad():
        for values in method.projector.parameters():
            values.fill_(1e38)
    dataset = open_dataset(labelled_folder)
    with pytest.raises(UserError, match=r"^the outputs of the network are not finite after the last update: [^\n]*$"):
        collapse.measure_outputs(method, dataset, views=Views(size=32), device=CPU)
    with pytest.raises(UserError, match="not finite after the last update"):
        collapse.held_out_knn(method, dataset, dataset, views=Views(size=32), device=CPU)
