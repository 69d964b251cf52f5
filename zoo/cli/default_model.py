"""What is said of the default network, which is small, and of what to take for real work."""

from __future__ import annotations

from zoo.cli.model_list import published_score
from zoo.hub.weights import RANDOM
from zoo.models import registry
from zoo.models.licences import is_non_commercial
from zoo.models.registry import DEFAULT_MODEL, FOR_REAL_WORK
from zoo.system.verbosity import note


def say_default(model: str) -> None:
    """Print on stderr, unless it is quiet, what to take for real work, if ``model`` is the default demo network."""
    if is_demo(model):
        note(default_note())


def is_demo(model: str) -> bool:
    """True for the default demo network with its weights."""
    name, tag = registry.split_name(model)
    return name == DEFAULT_MODEL and tag != RANDOM


def default_note() -> str:
    """Return the line that says what the default network is, and what to take for real work."""
    texts: list[str] = []
    for name in FOR_REAL_WORK:
        spec = registry.MODELS[name]
        tag = spec.default_tag
        score = published_score(spec, tag)
        assert tag is not None
        assert score is not None
        licence = spec.weights[tag].licence
        words = "non-commercial" if is_non_commercial(licence) else licence
        texts.append(f"{name} ({words}, {score.value:g} %{'' if texts else ' ImageNet'})")
    return f"{DEFAULT_MODEL} is a small demo network; for real work --model {' or '.join(texts)}"
