"""Full state of a run, written atomically; ``last.json`` names the last complete checkpoint and its hash."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch

from zoo import files
from zoo.errors import UserError

_POINTER = "last.json"


def file_name(step: int) -> str:
    """Of the checkpoint after ``step`` steps."""
    return f"checkpoint-{step:08d}.pt"


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Writes ``checkpoint-STEP.pt``, then points at it, then removes all but the last ``keep``.

    ``state`` holds tensors, numbers, strings, lists and dicts only: it is read back with ``weights_only``.

    Raises:
        UserError: the disk is full or refuses; pointer and older checkpoints are then as they were.
    """
    path, history = folder / file_name(step), _history(folder)
    others = [e for e in history if e["file"] != path.name]
    if others != history:  # a step made again: until its new file stands, the pointer names those before
        _point(folder, others)
    files.atomic_write(path, lambda f: _write(state, f))
    history = [{"file": path.name, "step": step, "sha256": files.sha256_file(path)}, *others][:keep]
    _point(folder, history)
    kept = {e["file"] for e in history}
    for old in folder.glob("checkpoint-*.pt"):
        if old.name not in kept:
            files.remove(old)
    files.remove_temporaries(folder)
    return path


def load_last(folder: Path, say: Any = print) -> dict[str, Any] | None:
    """The newest checkpoint whose hash is right, or ``None`` where there is none; says so when it skips one."""
    for entry in _history(folder):
        path = folder / entry["file"]
        try:
            if files.sha256_file(path) == entry["sha256"]:
                return read(path)
        except FileNotFoundError:
            pass
        say(f"{path.name} is damaged or gone: trying the one before")
    return None


def read(path: Path) -> dict[str, Any]:
    """One checkpoint file.

    Raises:
        UserError: missing, damaged, or not written by ``save``.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path} is no readable checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or "recipe" not in state:
        raise UserError(f"{path} was not written by zoo-train")
    return state


def _point(folder: Path, history: list[dict[str, Any]]) -> None:
    files.atomic_write_text(folder / _POINTER, json.dumps(history, indent=1) + "\n")


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # how torch's zip writer reports that ``file`` refused a write
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _history(folder: Path) -> list[dict[str, Any]]:
    try:
        history: list[dict[str, Any]] = json.loads((folder / _POINTER).read_text())
        return history
    except FileNotFoundError:
        return []
    except ValueError:
        raise UserError(f"{folder / _POINTER} is damaged: remove it, or name a checkpoint file") from None
