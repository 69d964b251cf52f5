"""Checks that cost milliseconds and come before a model is opened or torch is imported, which costs seconds."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from zoo.errors import UserError

_NOT_PATHS = "{*?["  # a pattern or numbered shards: whoever opens them says what is missing


def require_packages(what: str, extra: str, *packages: str) -> None:
    """Check that packages of an extra are installed, without importing them.

    Args:
        what: what needs them, such as ``zoo export``.
        extra: of this project.

    Raises:
        UserError: names the first that is not there and how to install it.
    """
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        raise UserError(f"{what} needs {' and '.join(missing)}: pip install 'siamese-zoo[{extra}]'")


def require_given(text: str, option: str = "--data") -> None:
    """Check that a text is not empty, as ``"$DATA"`` with an unset variable is. Raises UserError."""
    if not text:
        raise UserError(f"{option} is empty: give a path; the folder you are in is '.'")


def require_path(path: str | Path, message: str) -> None:
    """Check that a file or folder exists; names of data sets, URLs, ``-`` and patterns pass.

    Args:
        message: of the error.

    Raises:
        UserError: there is none.
    """
    text = os.fspath(path)
    if text == "-" or "://" in text or text.startswith("torchvision:") or any(sign in text for sign in _NOT_PATHS):
        return
    if text and "\0" not in text and not os.path.lexists(text):  # an empty name has its own message later
        raise UserError(message)


def require_file_name(out: Path) -> None:
    """Check that a file can be written as ``out``, before the work for it.

    Raises:
        UserError: it is a folder, a device or a pipe, or its folder cannot be written.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give the name of a file in it")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out} is a device, a pipe or a socket: give the name of a file")
    if out.parent.is_dir() and not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out} cannot be written: choose another place or allow writing there")


def require_folder(out: Path) -> None:
    """Check that ``out`` is a folder, or can become one: no part of its path is a file. Raises UserError."""
    for path in (out, *out.parents):
        if path.is_dir():
            return
        if os.path.lexists(path):
            raise UserError(f"{path} is {'a file' if path.exists() else 'a broken link'}: choose another --out")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # its parent is missing; a module without a spec
        return False
