"""Images that are files of their own: below a folder or URL, matched by a glob, or named by a list."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa

from zoo.errors import UserError, reason_of
from zoo.sources.base import ImageRow
from zoo.sources.file_listing import FILES, LeftOut, Listing, collect, has_image, is_hidden, list_images
from zoo.sources.metadata import (
    PATH_COLUMNS,
    kept_column,
    paths_in,
    read_csv,
    read_header,
    read_jsonl,
    require_utf8,
    with_metadata,
)
from zoo.sources.storage import Local, Remote, Storage, is_url, open_storage
from zoo.transforms.decode import EXTENSIONS
from zoo.transforms.unreadable import UnreadableImage

_EXTENSIONS = frozenset(os.fsencode(extension) for extension in EXTENSIONS)
_TABLES = (".csv", ".tsv", ".jsonl")  # lists that have columns
_BLOCK = 1 << 20
_MAX_PATH_BYTES = 1 << 16
_MAX_STORAGES = 1000  # kept open by a list of URLs


class ImageFolder:
    """All images below a local folder, by the rules of ``zoo.sources.file_listing``.

    Columns to keep: ``folder``, or those of ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` beside the
    images, as Hugging Face's ImageFolder has them; see ``zoo.sources.metadata``.
    """

    def __init__(self, root: str, keep: Sequence[str] = ()) -> None:
        self._storage = Local(root)
        self._keep = list(keep)

    def require_columns(self) -> None:
        """Look for an image; see ``Source``. The metadata can stand in any folder below."""
        if not has_image(Path(self._storage.root)):
            list_images(Path(self._storage.root))  # says what is there instead

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the images, sorted by path; see ``Source``."""
        found = list_images(Path(self._storage.root), without=without)
        if set(self._keep) <= {"folder"}:
            return replace(found, files=_with_folder(found.files, self._keep))
        files = with_metadata(Path(self._storage.root), found.files, [name for name in self._keep if name != "folder"])
        if "folder" in self._keep:
            files = _with_folder(files, ["folder"])
        return replace(found, files=files.select([*FILES.names, *self._keep]))

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        return self._storage.read(row["path"], row["size"], row["mtime_ns"])


class GlobFiles:
    """The images that a glob matches, or all below a URL. Names begin behind the last '/' before the first wildcard."""

    def __init__(self, root: str, pattern: str, keep: Sequence[str] = (), *, query: str = "") -> None:
        self._storage = open_storage(root, query)
        self._pattern = pattern
        self._keep = _only_folder(keep, root + pattern)

    def require_columns(self) -> None:
        """Look for a local image that the glob matches; see ``Source``. There is only the column ``folder``."""
        if isinstance(self._storage, Local) and not any(_is_image(path) for path, _ in self._found()):
            self.listing()  # says what is there instead

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the images, sorted by path; see ``Source``."""
        others = LeftOut()
        shown = self._storage.root + self._pattern

        # Count the other files while the rows stream by.
        def rows() -> Iterator[tuple[bytes, int, int]]:
            for path, size_and_time in self._found():
                is_hidden_here = is_hidden(path) and not is_hidden(os.fsencode(self._pattern))
                if _is_image(path) and not is_hidden_here:
                    yield path, *(size_and_time or self._storage.size_and_time(path))
                else:
                    others.add(path)

        # Collect the rows, and name the place if that fails.
        try:
            files = collect(rows(), FILES)
        except OSError as error:
            raise UserError(f"cannot list {shown} ({error.strerror}): put that right and run it again") from error
        if not len(files):
            raise others.no_image(shown)
        return Listing(_with_folder(files.sort_by("path"), self._keep), others.total, 0, others.kinds)

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        return self._storage.read(row["path"], row["size"], row["mtime_ns"])

    def _found(self) -> Iterator[tuple[bytes, tuple[int, int] | None]]:
        if isinstance(self._storage, Remote) and not self._pattern:
            yield from self._storage.files()
        else:
            yield from ((path, None) for path in self._storage.matches(self._pattern))


class PathReader:
    """Reads files by a path relative to a place, by an absolute path or by a URL."""

    def __init__(self, where: Storage) -> None:
        self._where = where
        self._others: dict[tuple[bytes, bytes], Storage] = {}

    def read(self, path: bytes, size: int, mtime_ns: int) -> bytes:
        """Return the bytes of a file. Raises UnreadableImage."""
        if not is_url(path):
            return self._where.read(path, size, mtime_ns)
        plain, question, query = path.partition(b"?")  # of a presigned URL
        parent, _, name = plain.rpartition(b"/")
        if (parent, question) not in self._others and len(self._others) > _MAX_STORAGES:
            self._others.clear()
        place = os.fsdecode(parent)
        try:
            urlsplit(place)
        except ValueError:
            raise UnreadableImage("missing", "no such file: its URL is damaged") from None
        there = self._others.setdefault((parent, question), open_storage(place, encoded=bool(question)))
        return there.read(name + question + query, size, mtime_ns)

    def size_and_time(self, path: bytes) -> tuple[int, int]:
        """Return size and time of a local file; -1 and -1 for others: a request for each would take too long."""
        is_remote = is_url(path) or isinstance(self._where, Remote)
        return (-1, -1) if is_remote else self._where.size_and_time(path)


class FileList:
    """The files that a list names, in its order; each line is one row, whatever it names.

    A text file has one path per line, or paths between NUL bytes as ``find -print0`` writes them. A ``.csv`` or
    ``.tsv`` file has a header with ``path`` or ``file_name``, a ``.jsonl`` file an object with one of these per line;
    their other columns can be kept. Paths are relative to the list; they may be URLs. A path with backslashes that is
    not there is taken as one with slashes if that is there.
    """

    def __init__(
        self, root: str, name: str, keep: Sequence[str] = (), *, query: str = "", path_column: str | None = None
    ) -> None:
        self._storage = open_storage(root)
        self._list = open_storage(root, query)
        self._name = name
        self._keep = list(keep)
        self._path_column = path_column
        self._shown = self._storage.root + name
        self._delimiter = "\t" if self._ends((".tsv",)) else ","
        self._reader = PathReader(self._storage)

    def require_columns(self) -> None:
        """Look at the first line of a table; see ``Source``."""
        if self._keep and self._ends((".csv", ".tsv")):
            with self._opened() as file:
                self._wanted(read_header(file, self._shown, self._delimiter)[0])
        elif self._keep and not self._ends(_TABLES):
            raise UserError(f"{self._shown} has no column {self._keep[0]}: only a .csv or .tsv has columns to keep")

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the files in the order of the list; see ``Source``. A path that stands there twice is two rows."""
        self.require_columns()
        with self._opened() as file:
            # A table keeps columns, a plain list has only paths.
            if self._ends(_TABLES):
                files = self._of_table(file)
            else:
                files = collect(map(self._row, _lines(file, self._shown)), FILES)
        if not len(files):
            raise UserError(f"{self._shown} names no file: write a path on each line")
        return Listing(files, 0, 0)

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        return self._reader.read(row["path"], row["size"], row["mtime_ns"])

    def _row(self, path: bytes) -> tuple[bytes, int, int]:
        size, mtime_ns = self._reader.size_and_time(path)
        if size < 0 and b"\\" in path and not is_url(path) and not isinstance(self._storage, Remote):
            slashes = path.replace(b"\\", b"/")  # as Windows writes it
            found = self._storage.size_and_time(slashes)
            if found[0] >= 0:
                return slashes, *found
        return path, size, mtime_ns

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with self._list.open(os.fsencode(self._name), sequential=True) as file:
                yield file
        except OSError as error:
            raise UserError(f"cannot read {self._shown} ({error.strerror or reason_of(error)})") from error

    def _ends(self, extensions: tuple[str, ...]) -> bool:
        return self._name.lower().endswith(extensions)

    def _of_table(self, file: BinaryIO) -> pa.Table:
        if self._ends((".jsonl",)):
            table = read_jsonl(file, self._shown)
            column, *_ = wanted = self._wanted(table.column_names)
            table = table.select(wanted)
        else:
            table = read_csv(file, self._shown, self._delimiter, self._wanted)
            column = table.column_names[0]
        files = collect((self._row(path or b"") for path in paths_in(table[column])), FILES)
        for name in self._keep:
            files = files.append_column(name, kept_column(table[name], name))
        return files

    def _wanted(self, there: list[str]) -> list[str]:
        """Return the column of the paths and those to keep. Raises UserError: one of them is not there."""
        names = (self._path_column,) if self._path_column else PATH_COLUMNS
        column = next((name for name in names if name in there), "")
        missing = [" or ".join(names)] if not column else [name for name in self._keep if name not in there]
        if missing:
            raise UserError(
                f"{self._shown} has no column {missing[0]}: its first line must name it; it has {', '.join(there)}"
            )
        return list(dict.fromkeys([column, *self._keep]))


class StdinList:
    """A list of paths on standard input, one per line or between NUL bytes, relative to the working folder."""

    def __init__(self, keep: Sequence[str] = ()) -> None:
        if keep:
            raise UserError(f"standard input has no column {keep[0]}: only a .csv or .tsv has columns to keep")
        self._list = FileList("", "standard input")
        self._files: pa.Table | None = None

    def require_columns(self) -> None:
        """Return: there is none to keep; see ``Source``."""

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the files in the order of the list; standard input is read once, by the first call."""
        if self._files is None:
            self._files = collect(map(self._list._row, _lines(sys.stdin.buffer, "standard input")), FILES)
        if not len(self._files):
            raise UserError("standard input names no file: find DIR -name '*.jpg' -print0 | zoo extract - --out OUT")
        return Listing(self._files, 0, 0)

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        return self._list.read(row)


def _lines(file: BinaryIO, shown: str) -> Iterator[bytes]:
    separator, windows, rest = None, False, b""
    while block := file.read(_BLOCK):
        rest += block
        # The first block decides the separator and the line ends.
        if separator is None:
            require_utf8(rest[:_BLOCK], shown)
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


def _is_image(path: bytes) -> bool:
    return os.path.splitext(path)[1].lower() in _EXTENSIONS


def _with_folder(files: pa.Table, keep: list[str]) -> pa.Table:
    if not keep:
        return files
    folders = (os.path.dirname(path.as_py()).decode(errors="backslashreplace") for path in files["path"])
    return files.append_column("folder", pa.chunked_array([pa.array(folders, pa.string())]))
