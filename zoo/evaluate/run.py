"""Run one protocol for a model on a data set, and write the result as one JSON file."""

from __future__ import annotations

import importlib
import json
import platform
import shlex
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from zoo.datasets.listed import text_of
from zoo.errors import UserError, without_secrets
from zoo.evaluate.baselines import require_model
from zoo.evaluate.context import Context
from zoo.evaluate.protocols import PROTOCOLS, WITH_SCHEDULE
from zoo.evaluate.result import EvaluationJson, Result
from zoo.inference.embedder import Embedder
from zoo.models.backbones import require_stages
from zoo.system.atomic_files import atomic_write_text, make_folder
from zoo.version import __version__

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "scipy", "torchmetrics", "faster-coco-eval")

_PATH_OPTIONS = frozenset(("held_out",))  # names of ``--set`` options whose value is a file


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
    label_column: str | None = None,
) -> EvaluationJson:
    """Score ``model`` by ``protocol`` on ``data``, and return the JSON.

    Args:
        protocol: key of ``zoo.evaluate.protocols.PROTOCOLS``.
        model: see ``zoo.evaluate.baselines.open_model``; ``NAME.random`` is that architecture with random weights.
        data: see ``zoo.datasets.labelled.open_splits``; detection, segmentation and depth have layouts of their own.
        out: file for the JSON; it is written atomically, when the evaluation is complete.
        device: torch device; ``None`` is the first GPU, else the CPU.
        seed: for splits, crops, heads and the order of images.
        settings: options of the protocol as text by name.
        root: folder that holds the data sets known by name.
        subset_files: folder with lists of labelled images for ``semi-supervised``.
        schedule: for ``detect``, ``segment`` and ``depth``; see ``zoo.evaluate.dense.schedules``.
        label_column: column of a list or a table with the labels; default: the one with a usual name.

    Raises:
        UserError: protocol, model, data or an option cannot be used.
    """
    # Check the request before the model is loaded.
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}: one of {', '.join(PROTOCOLS)}")
    if schedule is not None and protocol not in WITH_SCHEDULE:
        raise UserError(f"{protocol} has no schedules: --schedule is for detect, segment and depth")
    if out is not None:  # fail now, not after hours of work
        make_folder(out.parent)
        if out.is_dir():
            raise UserError(f"--out {out} is a folder: give a file in it")
    context = Context(
        protocol, model, data, device, seed, dict(settings or {}), root, subset_files, schedule, label_column
    )
    # The protocol checks its options and the data, and then opens the model, which takes seconds.
    require_model(model)
    if protocol in WITH_SCHEDULE:
        _require_dense(context)
    started = time.perf_counter()
    result: Result = importlib.import_module(PROTOCOLS[protocol]).evaluate(context)
    embedder = context.embedder
    content = {
        "protocol": protocol,
        **result.to_json(),
        "model": {"name": embedder.weights_info["model"], **embedder.identity(), **_parameters(embedder)},
        "options": {
            "seed": seed,
            **({"schedule": schedule} if schedule else {}),
            **_portable_settings(context.settings),
        },
        "command": command_line(context),
        "versions": versions(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    # Return what a reader of the file would get.
    text = json.dumps(content, indent=1) + "\n"
    if out is not None:
        atomic_write_text(out, text)
    as_read: EvaluationJson = json.loads(text)
    return as_read


def _require_dense(context: Context) -> None:
    """Refuse a network without feature maps or colours. Raises UserError."""
    embedder = context.embedder
    if embedder.engine.backend != "torch":
        return
    require_stages(embedder.model, context.protocol)
    if embedder.preprocessing.channels != 3:
        raise UserError(f"{context.protocol} needs a network for RGB images, not for {embedder.preprocessing.mode}")


def _parameters(embedder: Embedder) -> dict[str, int]:
    """Return the number of parameters, which with ``dim`` tells the architecture; nothing for an ONNX file."""
    if embedder.engine.backend != "torch":
        return {}
    return {"parameters": sum(p.numel() for p in embedder.model.parameters())}


def command_line(context: Context) -> str:
    """Return the command that runs the evaluation again, from the same working folder.

    Relative paths stay as they were given. Absolute ones are cut to their last name, as machines differ: the command
    then runs in a folder that holds them. The device is the one that was used, because kernels differ in the last bits.
    """
    words = ["zoo", "evaluate", context.protocol, "--model", _portable(context.model)]
    words += ["--data", _portable(str(context.data))]
    words += ["--label-column", context.label_column] if context.label_column else []
    words += ["--root", _portable(str(context.root))] if context.root is not None else []
    words += ["--subset-files", _portable(str(context.subset_files))] if context.subset_files is not None else []
    words += ["--schedule", context.schedule] if context.schedule else []
    words += ["--seed", str(context.seed)] if context.seed else []
    for name, text in _portable_settings(context.settings).items():
        words += ["--set", f"{name}={text}"]
    return shlex.join([*words, "--device", context.embedder.engine.device])


def _portable(text: str) -> str:
    """Cut an absolute path, or the one at the end of ``torchvision:NAME:ROOT``, to its last name; URLs lose secrets."""
    text = without_secrets(text_of(text))
    prefix, colon, path = text.rpartition(":") if text.startswith("torchvision:") else ("", "", text)
    return prefix + colon + (Path(path).name if Path(path).is_absolute() else path)


def _portable_settings(settings: Mapping[str, str]) -> dict[str, str]:
    return {
        name: _portable(text) if name in _PATH_OPTIONS else without_secrets(text) for name, text in settings.items()
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that can change a score; those that are not installed are left out."""
    found = {"siamese-zoo": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
