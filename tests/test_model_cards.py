"""A card says what the registry and the measured JSON say."""

from __future__ import annotations

import pytest

from zoo import card
from zoo.errors import UserError
from zoo.registry import DEFAULT_MODEL, MODELS

BUNDLED = [name for name, spec in MODELS.items() if any(w.bundled for w in spec.weights.values())]


@pytest.mark.parametrize("name", BUNDLED)
def test_the_card_is_what_the_command_writes(name: str) -> None:
    assert (card.CARDS / f"{name}.md").read_text() == card.render(name)


def test_the_measured_weights_are_the_bundled_ones_and_beat_random() -> None:
    spec = MODELS[DEFAULT_MODEL]
    tag = spec.default_tag
    assert tag is not None
    results = card.load_results(DEFAULT_MODEL, tag)
    assert len(results) == 2 * len(card.DATA_SETS) * len(card.PROTOCOLS)
    scores: dict[tuple[str, str], dict[bool, float]] = {}
    for result in results:
        is_random = result["model"]["weights_sha256"] is None
        if not is_random:
            assert result["model"]["weights_sha256"] == spec.weights[tag].sha256
        scores.setdefault((result["protocol"], result["data"]["name"]), {})[is_random] = result["score"]
    for key, pair in scores.items():
        assert pair[False] > pair[True], key


def test_the_readme_has_the_same_table() -> None:
    tag = MODELS[DEFAULT_MODEL].default_tag
    assert tag is not None
    assert card.table(card.load_results(DEFAULT_MODEL, tag)) in (card.CARDS.parent / "README.md").read_text()


def test_a_model_of_others_has_no_card() -> None:
    with pytest.raises(UserError, match="has no card"):
        card.render("byol_r50")
