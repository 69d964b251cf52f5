"""One evaluation: model, data, protocol -> one JSON."""

from __future__ import annotations

import importlib
import json
import platform
import shlex
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.evaluate.context import Context
from zoo.evaluate.protocols import PROTOCOLS, WITH_SCHEDULE
from zoo.evaluate.result import Result
from zoo.system.atomic_files import atomic_write_text, make_folder
from zoo.version import __version__

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "scipy", "torchmetrics", "faster-coco-eval")


def evaluate(
    protocol: str,
    model: str,
    data: Path,
    *,
    out: Path | None = None,
    device: str | None = None,
    seed: int = 0,
    settings: Mapping[str, str] | None = None,
    root: Path | None = None,
    subset_files: Path | None = None,
    schedule: str | None = None,
) -> dict[str, Any]:
    """Scores ``model`` by ``protocol`` on ``data``; returns the JSON of ``zoo.evaluate.result``.

    Args:
        protocol: key of ``zoo.evaluate.protocols.PROTOCOLS``.
        model: see ``zoo.evaluate.baselines.open_model``; ``NAME.random`` is that architecture with random weights.
        data: see ``zoo.datasets.dataset.evaluation_splits``; detection, segmentation and depth have layouts of their
        own.
        out: the JSON is written there too, atomically, and only when the evaluation is complete.
        settings: options of the protocol by name, as text.
        root: folder of data sets that are known by name.
        subset_files: folder with lists of labelled images for ``semi-supervised``.
        schedule: of ``detect``, ``segment`` and ``depth``; see ``zoo.evaluate.dense.schedules``.

    Raises:
        UserError: protocol, model, data or an option cannot be used.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}: one of {', '.join(PROTOCOLS)}")
    if schedule is not None and protocol not in WITH_SCHEDULE:
        raise UserError(f"{protocol} has no schedules: --schedule is for detect, segment and depth")
    if out is not None:  # before hours of work
        make_folder(out.parent)
        if out.is_dir():
            raise UserError(f"--out {out} is a folder: give a file in it")
    context = Context(protocol, model, data, device, seed, dict(settings or {}), root, subset_files, schedule)
    embedder = context.embedder
    started = time.perf_counter()
    found: Result = importlib.import_module(PROTOCOLS[protocol]).evaluate(context)
    result = {
        "protocol": protocol,
        **found.to_json(),
        "model": {"name": embedder.about["model"], **embedder.identity()},
        "options": {"seed": seed, **({"schedule": schedule} if schedule else {}), **context.settings},
        "command": command_line(context),
        "versions": versions(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    text = json.dumps(result, indent=1) + "\n"
    if out is not None:
        atomic_write_text(out, text)
    as_read: dict[str, Any] = json.loads(text)
    return as_read


def command_line(context: Context) -> str:
    """The ``zoo evaluate`` that does this again; folders by their last name, as places differ between machines."""
    model = Path(context.model).name if "/" in context.model and ":" not in context.model else context.model
    words = ["zoo", "evaluate", context.protocol, "--model", model, "--data", context.data.name]
    words += ["--schedule", context.schedule] if context.schedule else []
    words += ["--seed", str(context.seed)] if context.seed else []
    for name, text in context.settings.items():
        words += ["--set", f"{name}={text}"]
    return shlex.join(words)


def versions() -> dict[str, str]:
    """Of everything that can move a score; what is not installed is left out."""
    found = {"siamese-zoo": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
