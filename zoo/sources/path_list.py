"""A list of paths from a program as a source; it is written to a file, which later runs and commands read again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from zoo.errors import UserError
from zoo.sources.storage import is_url
from zoo.system.atomic_files import atomic_write_bytes, make_folder


def absolute_paths(images: Iterable[object]) -> list[bytes]:
    """Return the paths of images in their order, each with ``~`` expanded and absolute, or a URL.

    Raises:
        UserError: there is none, one is no path, or their order is not theirs (a set, a mapping, a table).
    """
    if isinstance(images, Mapping | Set) or hasattr(images, "columns"):
        raise UserError(f"images is a {type(images).__name__}: give a list of paths, such as one column of a table")
    found = [_absolute(image) for image in images]
    if not found:
        raise UserError(f"images is an empty {type(images).__name__}: give at least one path")
    return found


def write_path_list(paths: list[bytes], file: Path) -> None:
    """Write paths to a file that ``open_source`` reads, with zero bytes between them; equal bytes stay untouched."""
    data = b"".join(path + b"\0" for path in paths)
    if not file.is_file() or file.read_bytes() != data:
        make_folder(file.parent)
        atomic_write_bytes(file, data)


def _absolute(image: object) -> bytes:
    if not isinstance(image, str | bytes | os.PathLike):
        raise UserError(
            f"images holds a {type(image).__name__}: zoo.extract reads paths; embed images in memory with "
            "zoo.load()(images)"
        )
    try:
        path = os.fsencode(image)
    except UnicodeEncodeError:
        path = b"\0"
    if not path or b"\0" in path:
        raise UserError(f"images holds {os.fspath(image)!r:.60}, which is no path")
    if is_url(path):
        return path
    home = path == b"~" or path.startswith((b"~/", b"~\\"))
    return os.path.abspath(os.path.expanduser(path) if home and not os.path.lexists(path) else path)
