"""List the images below a folder: a table that is the same for the same folder, with names kept byte for byte.

- The walk is recursive. Rows are sorted by the raw bytes of the path relative to the folder, '/' between its parts.
- Everything with the extension of an image (``zoo.transforms.decode.EXTENSIONS``, any case) is one row: files, links
  to files, broken links, FIFOs, and folders, which are also descended into. A folder that cannot be listed is a row.
- Files with other extensions are counted by extension, not listed. Hidden files and folders, whose names begin with a
  dot, are counted as one each. Links to folders are counted, not followed.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa

from zoo.errors import UserError
from zoo.system.shortage import raise_if_short
from zoo.transforms.formats import EXTENSIONS
from zoo.transforms.limits import HEIC_EXTENSIONS, NEEDS_HEIC

FILES = pa.schema([("path", pa.binary()), ("size", pa.int64()), ("mtime_ns", pa.int64())])
"""One row per image: the relative path in raw bytes, and the size in bytes and modification time in ns by which a
changed file is recognised (those of a link's target). Both are -1 where the path is not a regular file."""
HIDDEN, OTHER_KINDS = "hidden", "other kinds"
LINKED, SPECIAL, SPARSE = "linked", "special", "sparse"
"""Kinds of a tar's members that are not read: links that lead to no member, devices and FIFOs, files with holes."""
MAX_KINDS, _SHOWN_KINDS = 50, 5
_MAX_EXTENSION = 12
ROWS_AT_ONCE = 4096
"""Rows that exist as Python objects at a time: rows are far smaller in Arrow."""

_EXTENSIONS = frozenset(os.fsencode(extension) for extension in EXTENSIONS)

_Row = tuple[bytes, int, int]


@dataclass(frozen=True)
class Listing:
    """The images of a source, and how much of it was left out.

    Attributes:
        files: the schema ``FILES``, perhaps with more columns; see ``zoo.sources.base.Source.listing``.
        other_files: number of files that are no rows.
        links_to_folders: number of links to folders.
        left_out: ``other_files`` by extension in lower case, ``""`` for none, ``HIDDEN`` for names that begin with a
            dot; the most frequent ``MAX_KINDS``, the others together under ``OTHER_KINDS``.
        unended: names of tar files that end without a block of zeros; each may be cut off behind a member.
    """

    files: pa.Table
    other_files: int
    links_to_folders: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    unended: tuple[str, ...] = ()


class LeftOut:
    """Counts files that are no rows, by what their names say."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()

    def add(self, path: bytes, count: int = 1) -> None:
        """Count a file by its name."""
        self._kinds[_kind(path)] += count

    def add_kind(self, kind: str) -> None:
        """Count a file of which more than the name is known."""
        self._kinds[kind] += 1

    @property
    def total(self) -> int:
        """Number of files."""
        return self._kinds.total()

    def no_image(self, where: str) -> UserError:
        """Return the error of a source in which all files were left out."""
        heic = any(kind in self._kinds for kind in HEIC_EXTENSIONS)
        known = " ".join(sorted(EXTENSIONS)) + (f"; {NEEDS_HEIC} reads HEIC" if heic else "")
        most = sorted(self._kinds.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_KINDS]
        named = ", ".join(f"{count} {kind or 'without extension'}" for kind, count in most)
        return UserError(
            f"no image in {where} ({self.total} other files): {named}{'; ' if named else ''}images end in {known}"
        )

    @property
    def kinds(self) -> dict[str, int]:
        """Numbers by kind, sorted by kind; see ``Listing``."""
        most = sorted(self._kinds.items(), key=lambda item: (-item[1], item[0]))
        others = sum(count for _, count in most[MAX_KINDS:])
        return dict(sorted(most[:MAX_KINDS])) | ({OTHER_KINDS: others} if others else {})


def is_hidden(path: bytes) -> bool:
    """Return whether a part of a relative path begins with a dot, as macOS's ``._*`` files do."""
    return any(part.startswith(b".") and part not in (b".", b"..") for part in path.split(b"/"))


def _kind(path: bytes) -> str:
    if is_hidden(path):
        return HIDDEN
    extension = os.path.splitext(path)[1].lower().decode(errors="backslashreplace")
    return extension if len(extension) <= _MAX_EXTENSION else ""


def collect(rows: Iterable[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    """Return an Arrow table of rows that come one by one."""
    rows, batches = iter(rows), []
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        batches.append(pa.record_batch([list(column) for column in zip(*batch, strict=True)], schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def list_images(folder: Path, *, without: Collection[Path] = ()) -> Listing:
    """List the images below ``folder``.

    Args:
        without: folders that are not descended into (the output).

    Raises:
        UserError: ``folder`` is missing, is not a folder, cannot be listed, or holds no image.
    """
    # Explain a missing folder before the walk fails on it.
    if not folder.is_dir():
        known = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {known}: give the folder that holds the images")
    walk = _Walk(os.fsencode(folder), {_device_and_inode(path) for path in without if path.exists()})
    # Walk the tree once, and collect its images.
    try:
        files = collect(walk.rows(), FILES)
    except OSError as error:
        raise UserError(f"cannot list {folder} ({error.strerror}): allow reading it") from error
    if not len(files):
        raise walk.left_out.no_image(str(folder))
    return Listing(files.sort_by("path"), walk.left_out.total, walk.links_to_folders, walk.left_out.kinds)


def has_image(folder: Path) -> bool:
    """Return whether ``list_images`` would find an image; the walk stops at the first."""
    try:
        return next(_Walk(os.fsencode(folder), set()).rows(), None) is not None
    except OSError:
        return False


class _Walk:
    def __init__(self, root: bytes, without: set[tuple[int, int]]) -> None:
        self.left_out = LeftOut()
        self.links_to_folders = 0
        self._root = root
        self._without = without

    def rows(self) -> Iterator[_Row]:
        folders = [b""]  # a stack and not recursion: folders can be nested deeper than Python's limit
        while folders:
            folder = folders.pop()
            # Only the root must be readable: another folder becomes a row of its own.
            try:
                items = os.scandir(os.path.join(self._root, folder))
            except OSError as error:
                raise_if_short(error)
                if not folder:
                    raise
                if not _is_image_name(folder.rstrip(b"/")):  # otherwise it already has its row
                    yield folder.rstrip(b"/"), -1, -1
                continue
            with items:
                # Sort each item: an image's name, a folder to visit, or another file.
                for item in items:
                    path = folder + item.name
                    if item.name.startswith(b"."):
                        if not self._is_output(item):
                            self.left_out.add(item.name)
                        continue
                    if _is_image_name(item.name):
                        yield _row(path, item)
                    if item.is_dir(follow_symlinks=False):
                        if not self._is_output(item):
                            folders.append(path + b"/")
                    elif not _is_image_name(item.name):
                        self._count(item)

    def _is_output(self, item: os.DirEntry[bytes]) -> bool:
        if not self._without or not item.is_dir(follow_symlinks=False):
            return False
        try:
            return _device_and_inode(item.path) in self._without
        except OSError:  # a path too long to be looked at: the listing of its folder will say so
            return False

    def _count(self, item: os.DirEntry[bytes]) -> None:
        if item.is_symlink() and os.path.isdir(item.path):
            self.links_to_folders += 1
        else:
            self.left_out.add(item.name)


def _row(path: bytes, item: os.DirEntry[bytes]) -> _Row:
    try:
        status = item.stat()
    except OSError:
        return path, -1, -1
    if not stat.S_ISREG(status.st_mode):
        return path, -1, -1
    return path, status.st_size, status.st_mtime_ns


def _is_image_name(name: bytes) -> bool:
    return os.path.splitext(name)[1].lower() in _EXTENSIONS


def _device_and_inode(path: Path | bytes) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
