"""Finds the outputs of the official codes in a folder, told by their content and not by their names."""

from __future__ import annotations

import json
import zipfile
from functools import cache
from pathlib import Path

_OPERATIONS = {  # endings of names of arrays that only such a file has
    "byol": ("_grayscale.npy",),
    "simclr": ("_hidden.npy",),
    "swav": ("_assignments.npy", "_grad_prototypes.npy"),
    "instdisc": ("nce_output.npy", "full_output.npy"),
    "cmc": ("_memory0_ab.npy",),
    "pirl": ("_embedding_patches.npy",),
    "pycontrast": ("queue_shuffle.npy",),
    "localagg": ("kmeans_squared_distance.npy",),
    "infomin": ("jigsaw_vissl_offsets.npy",),
}


@cache
def find_goldens(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each kind, by the name of the fixture that takes it.

    ``byol_group``, ``simsiam_group``, ... are paths without a suffix: whole training steps. ``byol_ops``, ... are .npz
    files: operations.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.json")):
        if method := _method(path):
            found.setdefault(f"{method}_group", []).append(path.with_suffix(""))
    for path in sorted(folder.rglob("*.npz")):
        with zipfile.ZipFile(path) as file:
            keys = file.namelist()
        for kind, marks in _OPERATIONS.items():
            if any(key.endswith(marks) for key in keys):
                found.setdefault(f"{kind}_ops", []).append(path)
    return found


def _method(path: Path) -> str:
    """Return the method of a trajectory's hyper-parameters; empty for other files."""
    hyper = json.loads(path.read_text())
    if not isinstance(hyper, dict):
        return ""
    return str(hyper.get("method", "byol" if "base_target_ema" in hyper else ""))


def not_compared(folder: Path, kinds: set[str]) -> list[str]:
    """Return the names of a folder's goldens that no fixture of ``kinds`` takes."""
    taken = {path.with_suffix("") for kind in kinds for path in find_goldens(folder).get(kind, [])}
    trajectories = {path.with_suffix("") for path in folder.rglob("*.json") if _method(path)}
    arrays = {path.with_suffix("") for path in folder.rglob("*.npz")}
    return sorted(path.name for path in (trajectories | arrays) - taken)
