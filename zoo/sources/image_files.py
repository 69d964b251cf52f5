"""Images that are files of their own: below a folder or URL, matched by a glob, or named by a list."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv

from zoo.errors import UserError, reason_of
from zoo.sources.base import ImageRow, narrowed, texts
from zoo.sources.file_listing import FILES, Listing, collect, list_images
from zoo.sources.storage import Local, Remote, Storage, is_url, open_storage
from zoo.transforms.decode import EXTENSIONS

_EXTENSIONS = frozenset(os.fsencode(extension) for extension in EXTENSIONS)
_BLOCK = 1 << 20
_MAX_PATH_BYTES = 1 << 16
_MAX_STORAGES = 1000  # kept open by a list of URLs


class ImageFolder:
    """All images below a local folder, by the rules of ``zoo.sources.file_listing``."""

    def __init__(self, root: str, keep: Sequence[str] = ()) -> None:
        self._storage = Local(root)
        self._keep = _only_folder(keep, root)

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the images, sorted by path; see ``Source``."""
        found = list_images(Path(self._storage.root), without=without)
        return Listing(_with_folder(found.files, self._keep), found.other_files, found.links_to_folders)

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        return self._storage.read(row["path"], row["size"], row["mtime_ns"])


class GlobFiles:
    """The images that a glob matches, or all below a URL. Names begin behind the last '/' before the first wildcard."""

    def __init__(self, root: str, pattern: str, keep: Sequence[str] = ()) -> None:
        self._storage = open_storage(root)
        self._pattern = pattern
        self._keep = _only_folder(keep, root + pattern)

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the images, sorted by path; see ``Source``."""
        others = 0
        shown = self._storage.root + self._pattern

        # Count the other files while the rows stream by.
        def rows() -> Iterator[tuple[bytes, int, int]]:
            nonlocal others
            for path, size_and_time in self._found():
                if os.path.splitext(path)[1].lower() in _EXTENSIONS:
                    yield path, *(size_and_time or self._storage.size_and_time(path))
                else:
                    others += 1

        # Collect the rows, and name the place if that fails.
        try:
            files = collect(rows(), FILES)
        except OSError as error:
            raise UserError(f"cannot list {shown} ({error.strerror}): put that right and run it again") from error
        if not len(files):
            raise UserError(f"no image in {shown} ({others} other files): images end in {' '.join(sorted(EXTENSIONS))}")
        return Listing(_with_folder(files.sort_by("path"), self._keep), others, 0)

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        return self._storage.read(row["path"], row["size"], row["mtime_ns"])

    def _found(self) -> Iterator[tuple[bytes, tuple[int, int] | None]]:
        if isinstance(self._storage, Remote) and not self._pattern:
            yield from self._storage.files()
        else:
            yield from ((path, None) for path in self._storage.matches(self._pattern))


class FileList:
    """The files that a list names, in its order; each line is one row, whatever it names.

    A text file has one path per line, or paths between NUL bytes as ``find -print0`` writes them. A ``.csv`` or
    ``.tsv`` file has a header with ``path``, and columns that can be kept. Paths are relative to the list; they may be
    URLs.
    """

    def __init__(self, root: str, name: str, keep: Sequence[str] = ()) -> None:
        self._storage = open_storage(root)
        self._name = name
        self._keep = list(keep)
        self._others: dict[bytes, Storage] = {}

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the files in the order of the list; see ``Source``. A path that stands there twice is two rows."""
        shown = self._storage.root + self._name
        # A table keeps columns, a plain list has only paths.
        try:
            with self._storage.open(os.fsencode(self._name)) as file:
                if self._name.lower().endswith((".csv", ".tsv")):
                    files = self._of_csv(file, shown)
                elif self._keep:
                    raise UserError(f"{shown} has no column {self._keep[0]}: only a .csv or .tsv has columns to keep")
                else:
                    files = collect(map(self._row, _lines(file, shown)), FILES)
        except OSError as error:
            raise UserError(f"cannot read {shown} ({error.strerror or reason_of(error)})") from error
        if not len(files):
            raise UserError(f"{shown} names no file: write a path on each line")
        return Listing(files, 0, 0)

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        path = row["path"]
        if not is_url(path):
            return self._storage.read(path, row["size"], row["mtime_ns"])
        parent, _, name = path.rpartition(b"/")
        if parent not in self._others and len(self._others) > _MAX_STORAGES:
            self._others.clear()
        there = self._others.setdefault(parent, open_storage(os.fsdecode(parent)))
        return there.read(name, row["size"], row["mtime_ns"])

    def _row(self, path: bytes) -> tuple[bytes, int, int]:
        # A request for each URL would take longer than all the rest, so the size of a URL is not asked for.
        unknown = is_url(path) or isinstance(self._storage, Remote)
        return (path, -1, -1) if unknown else (path, *self._storage.size_and_time(path))

    def _of_csv(self, file: BinaryIO, shown: str) -> pa.Table:
        delimiter = "\t" if shown.lower().endswith(".tsv") else ","
        wanted = ["path", *self._keep]
        # Parse only the wanted columns.
        try:
            # Columns are read as bytes: a path need not be UTF-8, and a label "007" or "NA" must stay what it is.
            table = pyarrow.csv.read_csv(
                file,
                parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, pa.binary()),
                    null_values=[],
                    strings_can_be_null=False,
                ),
            )
        except KeyError as error:
            raise UserError(f"{shown}: {reason_of(error).strip(chr(39))}: its first line must name them") from None
        except (pa.ArrowException, ValueError) as error:
            raise UserError(f"{shown} is no readable table ({reason_of(error)})") from None
        # Look up each path, then add the kept columns.
        paths = (value.as_py() for value in table["path"])
        files = collect(map(self._row, paths), FILES)
        for name in self._keep:
            files = files.append_column(name, narrowed(texts(table[name], name)))
        return files


def _lines(file: BinaryIO, shown: str) -> Iterator[bytes]:
    separator, windows, rest = None, False, b""
    while block := file.read(_BLOCK):
        rest += block
        # The first block decides the separator and the line ends.
        if separator is None:
            separator = b"\0" if b"\0" in rest else b"\n"
            windows = separator == b"\n" and rest.partition(b"\n")[0].endswith(b"\r")
            rest = rest.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that Windows writes
        # Keep the last, unfinished line for the next block.
        *lines, rest = rest.split(separator)
        if len(rest) > _MAX_PATH_BYTES:
            raise UserError(f"{shown} is no list of paths: a line has more than {_MAX_PATH_BYTES} bytes")
        yield from filter(None, (line.removesuffix(b"\r") if windows else line for line in lines))
    # The last line may lack its separator.
    if rest:
        yield rest.removesuffix(b"\r") if windows else rest


def _only_folder(keep: Sequence[str], where: str) -> list[str]:
    for name in keep:
        if name != "folder":
            raise UserError(f"{where} has no column {name}: separate files have only the column folder to keep")
    return list(keep)


def _with_folder(files: pa.Table, keep: list[str]) -> pa.Table:
    if not keep:
        return files
    folders = (os.path.dirname(path.as_py()).decode(errors="backslashreplace") for path in files["path"])
    return files.append_column("folder", pa.chunked_array([pa.array(folders, pa.string())]))
