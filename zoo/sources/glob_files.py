"""Globs of a local folder in which links lead in circles.

Python's ``glob`` follows links below ``**`` up to the depth at which the system refuses: a link to a folder above gives
each image 41 times, and two of them 2^40 folders to look through.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from fnmatch import translate

_Folder = tuple[int, int]  # device and inode


def matches(pattern: bytes, root: bytes) -> Iterator[bytes]:
    """Yield what ``glob.iglob(pattern, root_dir=root, recursive=True)`` does, each once, without names that end in "/".

    A link to a folder is followed, unless it leads to one that it lies in.
    """
    parts = pattern.split(b"/")
    if b"**" not in parts:
        yield from glob.iglob(pattern, root_dir=root, recursive=True)
        return
    if pattern.endswith(b"/"):  # folders only
        return
    # An absolute pattern begins at its own root.
    start = b"/" if pattern.startswith(b"/") else b""
    seen: set[bytes] = set()
    for found in _below(root, start, [part for part in parts if part], ()):
        if found and found not in seen:
            seen.add(found)
            yield found


def _below(root: bytes, folder: bytes, parts: list[bytes], chain: tuple[_Folder, ...]) -> Iterator[bytes]:
    """Yield the paths that match ``parts`` below ``folder``, which ends in a slash or is empty.

    Args:
        chain: the folders that lead to this one; none is entered again.
    """
    place = os.path.join(root, folder) or b"."
    if (here := _identity(place)) is None or here in chain:
        return
    chain = (*chain, here)
    part, *rest = parts
    # Any number of folders, none too; a stack, for folders can be nested deeper than Python's limit.
    if part == b"**":
        waiting = [(folder, chain)]
        while waiting:
            folder, chain = waiting.pop()
            if rest:
                yield from _below(root, folder, rest, chain[:-1])
            for name, is_folder in _entries(os.path.join(root, folder) or b".", hidden=False):
                if not rest:
                    yield folder + name
                inner = _identity(os.path.join(root, folder, name)) if is_folder else None
                if inner is not None and inner not in chain:
                    waiting.append((folder + name + b"/", (*chain, inner)))
        return
    # A fixed name, or a pattern.
    if glob.has_magic(part):
        name_matches = re.compile(translate(part.decode("latin-1")).encode("latin-1")).match
        found = [(n, d) for n, d in _entries(place, hidden=part.startswith(b".")) if name_matches(n)]
    else:
        path = os.path.join(place, part)
        found = [(part, os.path.isdir(path))] if os.path.lexists(path) else []
    for name, is_folder in found:
        if not rest:
            yield folder + name
        elif is_folder:
            yield from _below(root, folder + name + b"/", rest, chain)


def _identity(place: bytes) -> _Folder | None:
    try:
        status = os.stat(place)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _entries(place: bytes, *, hidden: bool) -> list[tuple[bytes, bool]]:
    """Return the names in a folder, each with whether it is a folder; nothing where it cannot be listed."""
    try:
        with os.scandir(place) as items:
            return [(item.name, _is_folder(item)) for item in items if hidden or not item.name.startswith(b".")]
    except OSError:
        return []


def _is_folder(item: os.DirEntry[bytes]) -> bool:
    try:
        return item.is_dir()
    except OSError:
        return False
