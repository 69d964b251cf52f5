"""Every architecture states the right number of parameters, in each of its variants."""

from __future__ import annotations

import pytest
import torch

from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder, count_parameters

VARIANTS = [
    (name, stem, project_first)
    for name, known in ARCHITECTURES.items()
    for stem in ("imagenet", "cifar")
    for project_first in ([known.project_first, True] if known.can_project_first else [False])
]


@pytest.mark.parametrize(("name", "stem", "project_first"), dict.fromkeys(VARIANTS))
def test_every_variant_has_the_parameters_that_it_states(name: str, stem: str, project_first: bool) -> None:
    known = ARCHITECTURES[name]
    found = known.variant(stem=stem, padding="same", project_first=project_first)
    with torch.device("meta"):
        encoder = build_encoder(found).eval()
        assert encoder(torch.empty(1, 3, 64, 64)).shape == (1, known.num_features)
    assert found.parameters == count_parameters(encoder)
    assert found.variant(stem=known.stem, padding=known.padding, project_first=known.project_first) == known


def test_only_a_network_whose_widths_need_no_projection_can_have_one() -> None:
    assert [name for name, known in ARCHITECTURES.items() if known.can_project_first] == ["r18", "r18_preact"]
