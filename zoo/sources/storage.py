"""Storage of files: a folder of this machine, or below an fsspec URL. Paths are raw bytes, relative to a root."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol, SupportsInt, TypeVar

from zoo.errors import UserError, reason_of
from zoo.sources import glob_files
from zoo.system.shortage import raise_if_short
from zoo.transforms.image_bytes import read_bytes, read_part
from zoo.transforms.limits import MAX_BYTES
from zoo.transforms.unreadable import UnreadableImage

_URL = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://")
_WILDCARD = re.compile(r"[*?\[]")
_ATTEMPTS, _SECONDS = 3, 0.2  # of a read over the network; the pause doubles

NO_RANGES = "the server sends whole files only (no HTTP Range): download it, and give the local file"

T = TypeVar("T")

SizeAndTime = tuple[int, int]
"""Size in bytes and modification time in ns, each -1 where there is none. For a URL without a time the second is a
number made of its ETag."""


class Storage(Protocol):
    """Files below one root."""

    @property
    def root(self) -> str:
        """The folder or URL."""

    def size_and_time(self, path: bytes) -> SizeAndTime:
        """Return size and time of one file; (-1, -1) where there is none."""

    def read(self, path: bytes, size: int, mtime_ns: int) -> bytes:
        """Return a whole file, which must have this size and time. Raises UnreadableImage."""

    def read_part(self, path: bytes, offset: int, length: int, mtime_ns: int) -> bytes:
        """Return some bytes of a file, which must have this time. Raises UnreadableImage."""

    def open(self, path: bytes, *, sequential: bool = False) -> BinaryIO:
        """Open a file for reading; it can be sought in unless ``sequential``. Raises OSError."""

    def matches(self, pattern: str) -> Iterator[bytes]:
        """Yield the files that a glob matches, in no order."""


class Local:
    """A folder of this machine; absolute paths are not joined to it. See ``Storage``."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._root = os.fsencode(root)

    def size_and_time(self, path: bytes) -> SizeAndTime:
        """Return size and time of one file; (-1, -1) where there is none."""
        try:
            status = os.stat(os.path.join(self._root, path))
        except (OSError, ValueError):
            return -1, -1
        return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (-1, -1)

    def read(self, path: bytes, size: int, mtime_ns: int) -> bytes:
        """Return a whole file, which must have this size and time. Raises UnreadableImage."""
        return read_bytes(os.path.join(self._root, path), size=size, mtime_ns=mtime_ns)

    def read_part(self, path: bytes, offset: int, length: int, mtime_ns: int) -> bytes:
        """Return some bytes of a file, which must have this time. Raises UnreadableImage."""
        return read_part(os.path.join(self._root, path), offset, length, mtime_ns=mtime_ns)

    def open(self, path: bytes, *, sequential: bool = False) -> BinaryIO:
        """Open a file for reading. Raises OSError."""
        whole = Path(os.fsdecode(os.path.join(self._root, path)))
        if whole.exists() and not whole.is_file():
            raise OSError(0, "it is not a file")
        return whole.open("rb")

    def matches(self, pattern: str) -> Iterator[bytes]:
        """Yield the files that a glob matches, in no order."""
        found = glob_files.matches(os.fsencode(pattern), self._root or b".")
        first = next(found, None)
        if first is None and "[" in pattern:  # a folder named `photos [2024]`: the brackets are meant as they are
            return glob_files.matches(os.fsencode(pattern.replace("[", "[[]")), self._root or b".")
        return found if first is None else chain([first], found)


def require_readable_scheme(url: str) -> None:
    """Do nothing where the package for this kind of URL is installed; no server is asked.

    Raises:
        UserError: fsspec, or its package for this kind of URL, is not installed.
    """
    try:
        import fsspec
    except ImportError:
        raise UserError(f'{url} needs fsspec: pip install "siamese-zoo[remote]"') from None
    try:
        fsspec.get_filesystem_class(url.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise UserError(f'{url}: {reason_of(error)} (pip install "siamese-zoo[remote]")') from None


class _RemoteFile(io.RawIOBase):
    """An open file of fsspec whose reads fail with OSError: each kind of storage raises its client's own errors.

    Args:
        reason: returns what an error says.
    """

    def __init__(self, file: Any, reason: Callable[[BaseException], str]) -> None:
        self._file, self._reason = file, reason

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._file.readinto(buffer))
        except Exception as error:
            raise_if_short(error)
            raise OSError(0, self._reason(error)) from error

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class Remote:
    """Files below a URL, read by the library fsspec: ``s3://bucket/folder``, ``https://host/folder``. See ``Storage``.

    Size and time are asked for when a file is listed. A read checks the size; a new time is noticed when the next run
    lists again.

    Args:
        url: the folder.
        query: appended to every path, as ``?X-Amz-Signature=...`` of a presigned URL; no name and message shows it.
        encoded: paths are quoted already, as those with such a query are.

    Raises:
        UserError: fsspec or its package for this kind of URL is not installed.
    """

    def __init__(self, url: str, query: str = "", *, encoded: bool = False) -> None:
        require_readable_scheme(url)
        import fsspec

        self.root = url
        try:
            # A signature in a query holds for these very bytes.
            self._fs, self._root = fsspec.url_to_fs(url, **({"encoded": True} if query or encoded else {}))
        except (ImportError, ValueError) as error:
            raise UserError(f'{url}: {reason_of(error)} (pip install "siamese-zoo[remote]")') from None
        self._query = query
        self._has_ranges = False  # not known yet
        self._is_web = "http" in self._fs.protocol

    def size_and_time(self, path: bytes) -> SizeAndTime:
        """Return size and time of one file; (-1, -1) where there is none. Raises OSError if the server fails."""
        info = self._none_if_missing(lambda: self._fs.info(self._path(path)))
        return _size_and_time(info) if info else (-1, -1)

    def read(self, path: bytes, size: int, mtime_ns: int) -> bytes:
        """Return a whole file, which must have this size. Raises UnreadableImage."""
        return self._named(lambda: self._whole(self._path(path), size))

    def read_part(self, path: bytes, offset: int, length: int, mtime_ns: int) -> bytes:
        """Return some bytes of a file. Raises UnreadableImage."""
        return self._named(lambda: self._range(self._path(path), offset, length))

    def open(self, path: bytes, *, sequential: bool = False) -> BinaryIO:
        """Open a file for reading. Raises OSError."""
        if self._is_web and not sequential:
            self._require_ranges(path)
        options = {"block_size": 0, "size": 1} if sequential and self._is_web else {}
        file = self._retry(lambda: self._fs.open(self._path(path), "rb", **options))
        return io.BufferedReader(_RemoteFile(file, self._reason), 1 << 16)

    def _require_ranges(self, path: bytes) -> None:
        """Ask for one byte. Raises OSError for a server that sends the whole file, whatever it says of itself."""
        if self._has_ranges:
            return
        one = {"headers": {"Range": "bytes=0-0"}}
        with self._retry(lambda: self._fs.open(self._path(path), "rb", block_size=0, size=1, **one)) as file:
            if file.r.status == 200:
                raise OSError(0, NO_RANGES)
        self._has_ranges = True

    def matches(self, pattern: str) -> Iterator[bytes]:
        """Yield the files that a glob matches, in no order. Raises OSError."""
        path = self._path(pattern.encode())
        if not _WILDCARD.search(pattern):  # fsspec's glob takes a server that does not answer for a missing file
            return iter([pattern.encode()] if self._none_if_missing(lambda: self._fs.info(path)) else [])
        found = self._retry(lambda: self._fs.glob(path, detail=False))
        return (self._below(name) for name in found)

    def files(self) -> Iterator[tuple[bytes, SizeAndTime]]:
        """Yield all files below the root, in no order. Raises OSError."""
        found = self._retry(lambda: self._fs.find(self._root, detail=True))
        if not found:  # fsspec's find takes a server that does not answer for an empty folder
            self._none_if_missing(lambda: self._fs.ls(self._root))
        return ((self._below(name), _size_and_time(info)) for name, info in found.items())

    def _none_if_missing(self, ask: Callable[[], T]) -> T | None:
        """Return an answer, ``None`` where nothing is there. Raises OSError where that cannot be known."""
        try:
            return self._retry(ask)
        except FileNotFoundError:
            return None

    def _path(self, path: bytes) -> str:
        name = path.decode(errors="surrogateescape")
        return (f"{self._root.rstrip('/')}/{name}" if self._root else name) + self._query

    def _below(self, name: str) -> bytes:
        return name.removeprefix(self._root.rstrip("/")).lstrip("/").encode(errors="surrogateescape")

    def _whole(self, path: str, size: int) -> bytes:
        if size < 0 and not self._is_web:
            size = _size_and_time(self._fs.info(path))[0]
        if size > MAX_BYTES:
            raise UnreadableImage("too-large", f"{size} bytes, more than {MAX_BYTES}")
        data = self._streamed(path, MAX_BYTES if size < 0 else size) if self._is_web else self._fs.cat_file(path)
        if len(data) > MAX_BYTES:
            raise UnreadableImage("too-large", f"more than {MAX_BYTES} bytes")
        if size >= 0 and len(data) != size:
            raise UnreadableImage("changed", "another size than when the run began")
        return data

    def _streamed(self, path: str, most: int) -> bytes:
        """Read at most one byte more than ``most``: a server may send without end, whatever size it announced."""
        data = bytearray()
        with self._fs.open(path, "rb", block_size=0, size=1) as file:  # with a size fsspec does not ask for it first
            while len(data) <= most and (piece := file.read(min(1 << 20, most + 1 - len(data)))):
                data += piece
        return bytes(data)

    def _range(self, path: str, offset: int, length: int) -> bytes:
        if length > MAX_BYTES:
            raise UnreadableImage("too-large", f"{length} bytes, more than {MAX_BYTES}")
        data: bytes = self._fs.cat_file(path, start=offset, end=offset + length) if length else b""
        if len(data) != length:
            raise UnreadableImage("changed", "another size than when the run began")
        return data

    def _named(self, read: Callable[[], bytes]) -> bytes:
        """Call ``read``; its failures become an UnreadableImage."""
        try:
            return self._retry(read)
        except FileNotFoundError:
            raise UnreadableImage("missing", "no such file") from None
        except PermissionError:
            raise UnreadableImage("no-permission", "reading it is not allowed") from None
        except OSError as error:
            raise_if_short(error)
            raise UnreadableImage("io-error", error.strerror or "read failed") from error

    def _retry(self, function: Callable[[], T]) -> T:
        for attempt in range(_ATTEMPTS):
            try:
                return function()
            except (PermissionError, UnreadableImage):
                raise
            except Exception as error:  # each kind of storage raises its client's own errors
                raise_if_short(error)
                no_answer = self._is_no_answer(error)
                if isinstance(error, FileNotFoundError) and not no_answer:
                    raise
                # Give up after the last attempt, else wait longer each time.
                if attempt + 1 == _ATTEMPTS:
                    raise OSError(0, self._reason((no_answer and error.__cause__) or error)) from error
                time.sleep(_SECONDS * 2**attempt)
        raise AssertionError

    def _reason(self, error: BaseException) -> str:
        """Return what an error says, without the query: the signature is a secret."""
        reason = reason_of(error)
        if self._query:
            reason = reason.replace(self._query, "?...")
        return NO_RANGES if "range requests" in reason else reason

    def _is_no_answer(self, error: Exception) -> bool:
        """Return whether fsspec reports a web server that failed to answer as a missing file."""
        missing = self._is_web and isinstance(error, FileNotFoundError)
        return missing and not isinstance(error.__cause__, FileNotFoundError | None)


def is_url(text: bytes) -> bool:
    """Return whether the text has the form ``SCHEME://...``."""
    return _URL.match(text) is not None


def open_storage(root: str, query: str = "", *, encoded: bool = False) -> Storage:
    """Open a folder or a URL; see ``Remote`` for the arguments."""
    if is_url(os.fsencode(root)):
        return Remote(root, query, encoded=encoded)
    return Local(root)


def _size_and_time(info: Mapping[str, object]) -> SizeAndTime:
    """Read what fsspec says of a file; the keys differ from one kind of storage to the next."""
    # A folder has neither.
    if info.get("type") == "directory":
        return -1, -1
    # Each kind of storage has its own names for the facts.
    size = info.get("size")
    modified = next((info[key] for key in ("LastModified", "mtime", "last_modified") if info.get(key)), None)
    tag = next((info[key] for key in ("ETag", "etag", "md5") if info.get(key)), None)
    # The time serves as version, else a hash of the tag.
    if isinstance(modified, datetime):
        version = int(modified.timestamp()) * 10**9
    elif isinstance(modified, int | float):
        version = int(modified * 10**9)
    else:
        version = int.from_bytes(hashlib.sha256(str(tag).encode(errors="surrogatepass")).digest()[:7]) if tag else -1
    return (int(size) if isinstance(size, SupportsInt | str) else -1), version
