"""Full state of a run, written atomically; ``last.json`` names the last complete checkpoint and its hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import torch

from zoo.errors import UserError, reason_of
from zoo.system import atomic_files

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
    atomic_files.atomic_write(path, lambda f: _write(state, f))
    history = [{"file": path.name, "step": step, "sha256": atomic_files.sha256_file(path)}, *others][:keep]
    _point(folder, history)
    kept = {e["file"] for e in history}
    for old in folder.glob("checkpoint-*.pt"):
        if old.name not in kept:
            atomic_files.remove(old)
    atomic_files.remove_temporaries(folder)
    return path


def load_last(folder: Path, say: Any = print) -> dict[str, Any] | None:
    """The newest checkpoint whose hash is right, or ``None`` where there is none; says so when it skips one.

    Raises:
        UserError: there are some, and all of them are damaged; or the folder cannot be read.
    """
    history = _history(folder)
    for entry in history:
        path = folder / entry["file"]
        try:
            if entry["sha256"] in (None, atomic_files.sha256_file(path)):
                return read(path)
        except (OSError, UserError):
            pass
        say(f"{path.name} is damaged or gone")
    if history:
        raise UserError(f"{folder}: every checkpoint is damaged or gone: restore one, or choose another --out")
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
    except Exception as error:  # damage comes as anything that unpickling and unzipping can raise
        reason = reason_of(error)
        raise UserError(f"{path} is no readable checkpoint: {reason}") from None
    if not isinstance(state, dict) or "recipe" not in state:
        raise UserError(f"{path} was not written by zoo-train")
    return state


def _point(folder: Path, history: list[dict[str, Any]]) -> None:
    atomic_files.atomic_write_text(folder / _POINTER, json.dumps(history, indent=1) + "\n")


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # how torch's zip writer reports that ``file`` refused a write
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _history(folder: Path) -> list[dict[str, Any]]:
    """The pointer's entries, newest first; without a pointer, the files that are there (each was renamed when whole):
    a run was killed before its first one stood, or somebody removed it."""
    path = folder / _POINTER
    try:
        history = json.loads(path.read_text())
        if not isinstance(history, list) or not all(isinstance(e["file"], str) and "sha256" in e for e in history):
            raise TypeError
        return history
    except FileNotFoundError:
        names = sorted((p.name for p in folder.glob("checkpoint-*.pt")), reverse=True)
        return [{"file": name, "sha256": None} for name in names]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged: remove it, the newest checkpoint that can be read is then taken") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): choose another --out or allow it") from None
