"""Where files lie: in a folder of this machine, or below an fsspec URL. Paths are raw bytes, relative to a root."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from zoo.errors import UserError
from zoo.sources.base import one_line
from zoo.transforms.decode import MAX_BYTES, UnreadableImage, read_bytes, read_part

_URL = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://")
_WILDCARD = re.compile(r"[*?\[]")
_ATTEMPTS, _SECONDS = 3, 0.2  # at a read over the network; the pause doubles

T = TypeVar("T")

Facts = tuple[int, int]
"""Size in bytes and modification time in ns, each -1 where there is none. Of a URL without a time the second is a
number made of its ETag."""


class Storage(Protocol):
    """Files below one root."""

    root: str

    def facts(self, path: bytes) -> Facts:
        """Of one file; (-1, -1) where there is none."""

    def read(self, path: bytes, size: int, mtime_ns: int) -> bytes:
        """A whole file, which must have these facts. Raises UnreadableImage."""

    def read_part(self, path: bytes, offset: int, length: int, mtime_ns: int) -> bytes:
        """Some bytes of a file, which must have this time. Raises UnreadableImage."""

    def open(self, path: bytes) -> BinaryIO:
        """For reading, seekable. Raises OSError."""

    def matches(self, pattern: str) -> Iterator[bytes]:
        """The files that a glob names, in no order."""


class Local:
    """A folder; an absolute path stays what it is."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._root = os.fsencode(root)

    def facts(self, path: bytes) -> Facts:
        """See Storage."""
        try:
            status = os.stat(os.path.join(self._root, path))
        except (OSError, ValueError):
            return -1, -1
        return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (-1, -1)

    def read(self, path: bytes, size: int, mtime_ns: int) -> bytes:
        """See Storage."""
        return read_bytes(os.path.join(self._root, path), size=size, mtime_ns=mtime_ns)

    def read_part(self, path: bytes, offset: int, length: int, mtime_ns: int) -> bytes:
        """See Storage."""
        return read_part(os.path.join(self._root, path), offset, length, mtime_ns=mtime_ns)

    def open(self, path: bytes) -> BinaryIO:
        """See Storage."""
        whole = Path(os.fsdecode(os.path.join(self._root, path)))
        if whole.exists() and not whole.is_file():
            raise OSError(0, "it is not a file")
        return whole.open("rb")

    def matches(self, pattern: str) -> Iterator[bytes]:
        """See Storage."""
        return glob.iglob(os.fsencode(pattern), root_dir=self._root or b".", recursive=True)


class Remote:
    """What lies below a URL, by the library fsspec: ``s3://bucket/folder``, ``https://host/folder``.

    A file's facts are asked for when it is listed. What is read must have the size that was listed; its time is looked
    at when a run lists again.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise UserError(f'{url} needs fsspec: pip install "siamese-zoo[remote]"') from None
        self.root = url
        try:
            self._fs, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(f'{url}: {one_line(error)} (pip install "siamese-zoo[remote]")') from None
        self._is_web = "http" in self._fs.protocol

    def facts(self, path: bytes) -> Facts:
        """See Storage."""
        info = self._answer(lambda: self._fs.info(self._path(path)))
        return _facts(info) if info else (-1, -1)

    def read(self, path: bytes, size: int, mtime_ns: int) -> bytes:
        """See Storage."""
        return self._image(lambda: self._whole(self._path(path), size))

    def read_part(self, path: bytes, offset: int, length: int, mtime_ns: int) -> bytes:
        """See Storage."""
        return self._image(lambda: self._range(self._path(path), offset, length))

    def open(self, path: bytes) -> BinaryIO:
        """See Storage."""
        return io.BufferedReader(self._retry(lambda: self._fs.open(self._path(path), "rb")), 1 << 16)

    def matches(self, pattern: str) -> Iterator[bytes]:
        """See Storage. Raises OSError."""
        path = self._path(pattern.encode())
        if not _WILDCARD.search(pattern):  # to glob, a server that does not answer has no such file
            return iter([pattern.encode()] if self._answer(lambda: self._fs.info(path)) else [])
        found = self._retry(lambda: self._fs.glob(path, detail=False))
        return (self._below(name) for name in found)

    def files(self) -> Iterator[tuple[bytes, Facts]]:
        """All files below the root, in no order. Raises OSError."""
        found = self._retry(lambda: self._fs.find(self._root, detail=True))
        if not found:  # to find, a server that does not answer is an empty folder
            self._answer(lambda: self._fs.ls(self._root))
        return ((self._below(name), _facts(info)) for name, info in found.items())

    def _answer(self, ask: Callable[[], T]) -> T | None:
        """``None`` where nothing is there. Raises OSError where nothing can be known."""
        try:
            return self._retry(ask)
        except FileNotFoundError:
            return None

    def _path(self, path: bytes) -> str:
        name = path.decode(errors="surrogateescape")
        return f"{self._root.rstrip('/')}/{name}" if self._root else name

    def _below(self, name: str) -> bytes:
        return name.removeprefix(self._root.rstrip("/")).lstrip("/").encode(errors="surrogateescape")

    def _whole(self, path: str, size: int) -> bytes:
        if size < 0 and not self._is_web:
            size = _facts(self._fs.info(path))[0]
        if size > MAX_BYTES:
            raise UnreadableImage("too-large", f"{size} bytes, more than {MAX_BYTES}")
        data = self._streamed(path, MAX_BYTES if size < 0 else size) if self._is_web else self._fs.cat_file(path)
        if len(data) > MAX_BYTES:
            raise UnreadableImage("too-large", f"more than {MAX_BYTES} bytes")
        if size >= 0 and len(data) != size:
            raise UnreadableImage("changed", "another size than when the run began")
        return data

    def _streamed(self, path: str, most: int) -> bytes:
        """At most one byte more than ``most``: a server may send without end, whatever it said of the size."""
        data = bytearray()
        with self._fs.open(path, "rb", block_size=0, size=1) as file:  # a stream; with a size it is not asked for first
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

    def _image(self, read: Callable[[], bytes]) -> bytes:
        try:
            return self._retry(read)
        except FileNotFoundError:
            raise UnreadableImage("missing", "no such file") from None
        except PermissionError:
            raise UnreadableImage("no-permission", "reading it is not allowed") from None
        except OSError as error:
            raise UnreadableImage("io-error", error.strerror or "read failed") from error

    def _retry(self, function: Callable[[], T]) -> T:
        for attempt in range(_ATTEMPTS):
            try:
                return function()
            except (PermissionError, UnreadableImage):
                raise
            except Exception as error:  # each kind of storage raises its client's own errors
                disguised = self._is_disguised(error)
                if isinstance(error, FileNotFoundError) and not disguised:
                    raise
                if attempt + 1 == _ATTEMPTS:
                    raise OSError(0, one_line((disguised and error.__cause__) or error)) from error
                time.sleep(_SECONDS * 2**attempt)
        raise AssertionError

    def _is_disguised(self, error: Exception) -> bool:
        """Whether fsspec calls missing what a web server failed to answer."""
        missing = self._is_web and isinstance(error, FileNotFoundError)
        return missing and not isinstance(error.__cause__, FileNotFoundError | None)


def is_url(text: bytes) -> bool:
    """Whether this is ``SCHEME://...``."""
    return _URL.match(text) is not None


def open_storage(root: str) -> Storage:
    """For a folder or a URL."""
    return cast(Storage, Remote(root) if is_url(os.fsencode(root)) else Local(root))


def _facts(info: dict[str, Any]) -> Facts:
    if info.get("type") == "directory":
        return -1, -1
    size = info.get("size")
    time_of: Any = next((info[key] for key in ("LastModified", "mtime", "last_modified") if info.get(key)), None)
    tag = next((info[key] for key in ("ETag", "etag", "md5") if info.get(key)), None)
    if hasattr(time_of, "timestamp"):
        version = int(time_of.timestamp()) * 10**9
    elif isinstance(time_of, int | float):
        version = int(time_of * 10**9)
    else:
        version = int.from_bytes(hashlib.sha256(str(tag).encode()).digest()[:7]) if tag else -1
    return (-1 if size is None else int(size)), version
