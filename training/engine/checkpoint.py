"""Checkpoints, written atomically; ``last.json`` names the complete ones, newest first, with their hashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NotRequired, TypedDict

import torch
from torch import Tensor

from training.methods import Method
from training.monitoring.early_stop import EarlyStopState
from training.monitoring.online_probe import MonitorState
from zoo.convert.readers.torch_checkpoint import load_torch
from zoo.errors import UserError, reason_of
from zoo.system import atomic_files
from zoo.system.json_types import JSON

_POINTER = "last.json"
_KINDS: dict[str, type | tuple[type, ...]] = {  # of the fields that every checkpoint has
    "recipe": dict,
    "data": dict,
    "step": int,
    "total_steps": int,
    "seconds": (int, float),
    "hardware": list,
    "method": dict,
}


class DataInfo(TypedDict):
    """Name, number of images and content (``Dataset.content``) of the training data."""

    name: str
    images: int
    content: NotRequired[str]


class InitialWeights(TypedDict):
    """The weights from which the encoder of a run started (``--init``): their name, and the sha256 of their file."""

    weights: str
    sha256: str | None  # NAME.random has no file


class CheckpointState(TypedDict):
    """The full state of a run: tensors, numbers, strings, lists and dicts only, because torch reads it back with
    ``weights_only``. Fields that are not required came later than the first version."""

    recipe: dict[str, JSON]
    data: DataInfo
    step: int
    total_steps: int
    seconds: float
    hardware: list[str]
    skipped: NotRequired[int]
    method: dict[str, Tensor]
    optimiser: dict[str, Any]
    scaler: NotRequired[dict[str, Any]]
    monitors: NotRequired[MonitorState]
    early_stop: NotRequired[EarlyStopState]
    init: NotRequired[InitialWeights]


class _CheckpointEntry(TypedDict):
    file: str
    step: NotRequired[int]
    sha256: str | None


def file_name(step: int) -> str:
    """Return the name of the checkpoint after ``step`` steps."""
    return f"checkpoint-{step:08d}.pt"


def save(folder: Path, step: int, state: CheckpointState, *, keep: int = 2) -> Path:
    """Write ``checkpoint-STEP.pt``, add it to ``last.json``, and remove all but the last ``keep`` checkpoints.

    Raises:
        UserError: the disk is full or refuses the write; ``last.json`` and older checkpoints are then unchanged.
    """
    # Drop an older file of the same step from the history.
    path, history = folder / file_name(step), _history(folder)
    others = [e for e in history if e["file"] != path.name]
    if others != history:  # the step is repeated: until its new file is complete, last.json names only the others
        _write_pointer(folder, others)
    # Write the new file, then let last.json name it.
    atomic_files.atomic_write(path, lambda f: _write(state, f))
    newest: _CheckpointEntry = {"file": path.name, "step": step, "sha256": atomic_files.sha256_file(path)}
    history = [newest, *others][:keep]
    _write_pointer(folder, history)
    # Remove the files that the history no longer names.
    kept = {e["file"] for e in history}
    for old in folder.glob("checkpoint-*.pt"):
        if old.name not in kept:
            atomic_files.remove(old)
    atomic_files.remove_temporaries(folder)
    return path


def load_last(folder: Path, warn: Callable[[str], object] = print) -> CheckpointState | None:
    """Return the newest checkpoint with the right hash, or ``None`` if there is no checkpoint.

    Args:
        warn: receives a line for each damaged or missing checkpoint.

    Raises:
        UserError: all checkpoints are damaged, or the folder cannot be read.
    """
    # Try the checkpoints from the newest to the oldest.
    history = _history(folder)
    for entry in history:
        path = folder / entry["file"]
        try:
            if entry["sha256"] in (None, atomic_files.sha256_file(path)):
                return read(path)
        except (OSError, UserError):
            pass
        warn(f"{path.name} is damaged or missing")
    # Refuse to start anew over a run whose checkpoints are all lost.
    if history:
        raise UserError(f"{folder}: every checkpoint is damaged or missing: restore one, or choose another --out")
    return None


def read(path: Path) -> CheckpointState:
    """Read one checkpoint file.

    Raises:
        UserError: it is missing, damaged, or not written by ``save``.
    """
    # Load tensors and plain values only, as a checkpoint may come from elsewhere.
    if not path.exists():
        raise UserError(f"no checkpoint at {path}")
    try:
        state: CheckpointState = load_torch(path)
    except Exception as error:  # damage raises whatever unpickling and unzipping can raise
        raise UserError(f"{path} is not a readable checkpoint: {reason_of(error)}") from None
    # Refuse files of other programs.
    if not isinstance(state, dict) or "recipe" not in state:
        raise UserError(f"{path} was not written by zoo-train: give a checkpoint-*.pt, or the folder of a run")
    return state


def require_complete(state: CheckpointState, name: object) -> None:
    """Raise UserError unless a checkpoint has every field that ``save`` has written since the first version.

    A file that only looks like one, or was edited, has no hash that tells it from another.

    Args:
        name: the checkpoint's name, for messages.
    """
    values: dict[str, object] = {**state}
    wrong = [field for field, kind in _KINDS.items() if not isinstance(values.get(field), kind)]
    if not wrong and not (isinstance(state["data"].get("name"), str) and isinstance(state["data"].get("images"), int)):
        wrong = ["data"]
    if wrong:
        raise UserError(
            f"{name} holds an incomplete checkpoint (its {wrong[0]!r} is missing or of another kind): restore the file "
            "that zoo-train wrote"
        )


def named(folder: Path) -> list[str]:
    """Return the names and hashes of a folder's checkpoints, newest first, which a second run there would change."""
    return [f"{entry['file']} {entry['sha256']}" for entry in _history(folder)]


def load_weights(method: Method, state: CheckpointState, name: object) -> None:
    """Load the network of a checkpoint into ``method``.

    Args:
        name: the checkpoint's name, for messages.

    Raises:
        UserError: the weights do not fit.
    """
    try:
        method.load_state_dict(state["method"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()[:160]
        raise UserError(
            f"{name} does not fit the network of its recipe ({reason}): use the version of siamese-zoo that wrote it"
        ) from None


def _write_pointer(folder: Path, history: list[_CheckpointEntry]) -> None:
    atomic_files.atomic_write_text(folder / _POINTER, json.dumps(history, indent=1) + "\n")


def _write(state: CheckpointState, file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch's zip writer raises this when ``file`` refuses a write
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _history(folder: Path) -> list[_CheckpointEntry]:
    """Return the entries of ``last.json``, newest first.

    Without that file (a run was killed before its first checkpoint was complete, or somebody removed it) list the
    checkpoint files, each of which got its name when it was complete.
    """
    path = folder / _POINTER
    # Read the pointer file, which knows the checksums.
    try:
        history: list[_CheckpointEntry] = json.loads(path.read_text())
        if not isinstance(history, list) or not all(isinstance(e["file"], str) and "sha256" in e for e in history):
            raise TypeError
        return history
    except FileNotFoundError:
        # Fall back to the file names, without checksums.
        names = sorted((p.name for p in folder.glob("checkpoint-*.pt")), reverse=True)
        return [{"file": name, "sha256": None} for name in names]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged: remove it, and the newest readable checkpoint is used") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): choose another --out or allow reading it") from None
