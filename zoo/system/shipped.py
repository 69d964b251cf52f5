"""Folders that come with the project: beside the packages in a checkout, inside ``zoo`` in a wheel (``setup.py``)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_IN_CHECKOUT = {
    "model_cards": Path("model_cards"),
    "photos": Path("examples", "photos"),
    "web": Path("examples", "web"),
}


def shipped_folder(name: str) -> Path:
    """Return the folder ``model_cards``, ``photos`` or ``web``; it may be missing in a checkout that was cut down."""
    packaged = _bundled() / name
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / _IN_CHECKOUT[name]


def is_packaged(path: Path) -> bool:
    """Return whether a path lies in the files of an installed package; those of a checkout do not."""
    return path.is_relative_to(_bundled())


def _bundled() -> Path:
    return Path(str(files("zoo"))) / "bundled"
