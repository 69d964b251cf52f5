"""Images in tar files as webdataset writes them: members KEY.jpg with KEY.cls or KEY.json, read in place.

A shard's headers are walked once; after that a member is a seek and a read. Nothing is ever extracted, so a member's
name is only a name, and links and devices are passed over.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from zoo.errors import UserError, reason_of
from zoo.transforms.decode import EXTENSIONS, MAX_BYTES, UnreadableImage

_LABEL_KEYS = ("label", "cls")  # of KEY.json
_MOST_LABEL_BYTES = 1 << 20
_MOST_HEADER_BYTES = 1 << 24  # a long name or a pax header; tarfile would read any size into memory
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class Shard:
    """A tar file as it was when its headers were read."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Sample:
    """Where the image ``name`` lies in ``shard``: bytes ``offset .. offset + size``.

    ``label`` is an int, a str, or ``None``.
    """

    shard: Shard
    name: str
    offset: int
    size: int
    label: Any

    def read(self) -> bytes:
        """The image's bytes. Raises UnreadableImage."""
        if self.size > MAX_BYTES:
            raise UnreadableImage("too-large", f"{self.size} bytes, more than {MAX_BYTES}")
        try:
            with self.shard.path.open("rb", buffering=0) as file:
                now = os.fstat(file.fileno())
                if (now.st_size, now.st_mtime_ns) != (self.shard.size, self.shard.mtime_ns):
                    raise UnreadableImage("changed", "the tar file is not the one whose headers were read")
                return _read_at(file, self.offset, self.size)
        except FileNotFoundError:
            raise UnreadableImage("missing", "the tar file is gone") from None
        except OSError as error:
            raise UnreadableImage("io-error", error.strerror or "read failed") from error


def expand(pattern: str) -> list[Path]:
    """``shard-{000000..000009}.tar`` -> ten paths; numbers keep the width of the first one.

    Raises:
        UserError: the range is empty or absurd.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [Path(pattern)]
    first, last = match.groups()
    if not int(first) <= int(last) < int(first) + _MOST_SHARDS:
        raise UserError(f"{pattern}: {{{first}..{last}}} is no range of shards")
    numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    return [p for n in numbers for p in expand(pattern[: match.start()] + n + pattern[match.end() :])]


def samples(shards: list[Path]) -> list[Sample]:
    """The images of these tar files, in their order.

    Raises:
        UserError: a shard is missing, compressed or damaged, or holds two members of one name.
    """
    found: list[Sample] = []
    for path in shards:
        found += _of_shard(path)
    if not found:
        raise UserError(f"no image in {shards[0]}: members must be called KEY.jpg, with KEY.cls or KEY.json beside")
    return found


def _of_shard(path: Path) -> Iterator[Sample]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a file")
        with path.open("rb") as file:
            images, labels = _members(file, status.st_size, path)
            shard = Shard(path, status.st_size, status.st_mtime_ns)
            for key, (name, offset, size) in images.items():
                yield Sample(shard, name, offset, size, _label(file, labels.get(key, {}), f"{path}: {key}"))
    except FileNotFoundError:
        raise UserError(f"no tar file at {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


_Place = tuple[str, int, int]


def _members(file: BinaryIO, length: int, path: Path) -> tuple[dict[str, _Place], dict[str, dict[str, _Place]]]:
    """Images by key, and label members by key and extension."""
    images: dict[str, _Place] = {}
    labels: dict[str, dict[str, _Place]] = {}
    for member in walk(file, length, path):
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")  # webdataset: the extension begins at the first dot
        key, extension = f"{folder}/{stem}" if folder else stem, extension.lower()
        place = (member.name, member.offset_data, member.size)
        if f".{extension}" in EXTENSIONS:
            if key in images:
                raise UserError(f"{path} holds two images called {key!r}: give each a key of its own")
            images[key] = place
        elif extension in ("cls", "json"):
            labels.setdefault(key, {})[extension] = place
    return images, labels


def walk(file: BinaryIO, length: int, path: Path | str) -> Iterator[tarfile.TarInfo]:
    """The regular files in a tar of ``length`` bytes, each within it and after the one before.

    Raises:
        UserError: compressed, damaged, or hostile; ``path`` is what the message calls it.
    """
    if file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise UserError(f"{path} is compressed, so images in it cannot be read one by one: unpack it to a plain .tar")
    file.seek(0)
    end = 0
    try:
        with tarfile.open(fileobj=cast(Any, _Bounded(file)), mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all
                if member.size < 0 or member.offset_data <= end or member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"member {member.name[:80]!r} lies outside the file")
                end = member.offset_data
                if member.isreg() and member.sparse is None:
                    yield member
    except Exception as error:  # a mutated archive can make tarfile raise nearly anything
        if isinstance(error, UserError):
            raise
        reason = reason_of(error)
        raise UserError(f"{path} is no readable tar file ({reason}): write or download it again") from None


class _Bounded:
    """A file of which no more than a header's worth is read at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError("a header larger than 16 MB")
        return self._file.read(size)


def _label(file: BinaryIO, members: dict[str, _Place], what: str) -> int | str | None:
    place = members.get("cls") or members.get("json")
    if place is None:
        return None
    if place[2] > _MOST_LABEL_BYTES:
        raise UserError(f"{what}: a label of {place[2]} bytes")
    try:
        text = _read_at(file, place[1], place[2]).decode()
        value = text.strip() if "cls" in members else _of_json(json.loads(text))
    except (ValueError, RecursionError):
        raise UserError(f"{what}: {place[0]} is not readable as a label") from None
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise UserError(f"{what}: the label in {place[0]} is neither a number nor a name")


def _of_json(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return next((content[key] for key in _LABEL_KEYS if key in content), None)


def _read_at(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    data: bytes = file.read(size)
    return data
