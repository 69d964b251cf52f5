"""What a command must have so that it goes on with a folder that other options were begun with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from zoo.embeddings.fingerprint import Fingerprint
from zoo.extraction.fingerprint import ExtractionConfig
from zoo.system.json_types import JSON
from zoo.system.terminal import printable

_VALUE = ("backend", "precision", "crops", "format", "dtype", "batch_size", "shard_size", "image_column")
_MOST = 100  # characters of a value; a longer one is not worth typing again


def with_open_choices(wanted: Fingerprint, plan: Fingerprint, config: ExtractionConfig) -> Fingerprint:
    """Return what is wanted, with the plan's value wherever the user chose none.

    A threshold: in version 0.2.0 the default was .99. Sizes: who began with ``--shard-size 10`` need not repeat it.
    """
    if config.near is None and wanted.dedupe and plan.dedupe:
        wanted = replace(wanted, near_threshold=plan.near_threshold)
    if config.shard_size is None:
        wanted = replace(wanted, shard_size=plan.shard_size)
    if config.batch_size is None:
        wanted = replace(wanted, batch_size=plan.batch_size)
    return wanted


def advice(found: list[str], plan: Fingerprint) -> str:
    """Return how the options of the command must change to be those of the plan, as ``add --normalize, or ``.

    It is empty where the first difference, such as a library's version, is not an option's.

    Args:
        found: ``Fingerprint.differences``.
    """
    steps = [_step(text.split()[0], plan) for text in found]
    return f"{' and '.join(dict.fromkeys(filter(None, steps)))}, or " if steps and steps[0] else ""


def _step(key: str, plan: Fingerprint) -> str | None:
    """Return what to do about one key of the plan; ``None`` where it is no option's."""
    value = plan.to_json().get(key)
    if key == "model":
        return f"add --model {value}" if plan.registered_model else None
    if key in _VALUE:
        return _given(key.replace("_", "-"), value)
    special: dict[str, Callable[[], str]] = {
        "normalize": lambda: "add --normalize" if value else "leave out --normalize",
        "keep": lambda: _given("keep", ",".join(plan.keep) if plan.keep else None),
        "dedupe.near": lambda: _dedupe(plan.near_threshold),
        "decoder.max_pixels": lambda: _given("max-pixels", (plan.decoder or {}).get("max_pixels")),
    }
    return special[key]() if key in special else None


def _given(option: str, value: JSON) -> str:
    if value is None:
        return f"leave out --{option}"
    return f"add --{option} {printable(value)}" if len(str(value)) <= _MOST else f"add --{option} as it was"


def _dedupe(threshold: float | str | None) -> str:
    if threshold is None:
        return "leave out --dedupe"
    return "add --dedupe" if threshold == "auto" else f"add --dedupe --near {threshold}"
