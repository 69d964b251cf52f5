"""The members of tar files, as their headers name them; nothing is ever unpacked.

A member's name is only a name. A hard link to a member has that member's bytes; other links and devices are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import ReadError, TarInfo
from tarfile import TarFile as TarArchive
from tarfile import open as open_tar
from typing import BinaryIO, NamedTuple, cast

from zoo.errors import UserError, reason_of
from zoo.sources.file_listing import LINKED, SPARSE, SPECIAL
from zoo.sources.tar_end import require_end

MAX_VALUE_BYTES = 1 << 20  # of a label or a kept value
_MAX_HEADER_BYTES = 1 << 24  # of a long name or a pax header; tarfile would read any size into memory
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


class Member(NamedTuple):
    """A member of a tar file; a TarInfo takes several times its memory."""

    name: str
    offset: int
    size: int


def expand(pattern: str) -> list[Path]:
    """Expand ``shard-{000000..000009}.tar`` to ten paths; numbers keep the width of the first one.

    Raises:
        UserError: the range is empty or has more than a million numbers.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [Path(pattern)]
    first, last = match.groups()
    if not int(first) <= int(last) < int(first) + _MAX_SHARDS:
        raise UserError(f"{pattern}: {{{first}..{last}}} is no range of shards")
    numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    return [p for n in numbers for p in expand(pattern[: match.start()] + n + pattern[match.end() :])]


def members(
    file: BinaryIO,
    length: int,
    shown: Path | str,
    unended: dict[str, None] | None = None,
    passed_over: Callable[[str], None] = lambda kind: None,
) -> Iterator[TarInfo]:
    """Yield the regular files in a tar of ``length`` bytes, each within it and after the one before.

    Behind them come hard links to them, each with the place and size of the bytes that it names: GNU tar stores a file
    once, and each further name of it as a link.

    Args:
        shown: the name of the tar file in messages.
        unended: gets that name as a key if the file may be cut off behind a member; see ``require_end``.
        passed_over: called with the kind of each member that is no folder and has no bytes to read in place.

    Raises:
        UserError: the file is compressed, damaged or hostile, or another tar file follows its end.
    """
    # Refuse a compressed file: its members have no offsets to seek to.
    if file.read(6).startswith(_COMPRESSED):
        raise UserError(f"{shown} is compressed, so images in it cannot be read one by one: unpack it to a plain .tar")
    file.seek(0)
    # Walk the headers, and trust no offset in them.
    end, linked = 0, set[str]()
    try:
        with open_tar(fileobj=cast(BinaryIO, _HeaderReader(file)), mode="r:") as tar:
            for member in _each_header(tar):
                if member.size < 0 or member.offset_data <= end or member.offset_data + member.size > length:
                    raise ReadError(f"member {member.name[:80]!r} lies outside the file")
                end = member.offset_data
                if member.islnk():
                    linked.add(member.linkname)
                elif _has_bytes(member):
                    yield member
                elif member.issym() or member.isdev() or member.sparse is not None:
                    passed_over(LINKED if member.issym() else SPECIAL if member.isdev() else SPARSE)
            if not require_end(file, tar.offset) and unended is not None:
                unended[str(shown)] = None
        # A second walk finds what the links name, so that archives without links keep no names in memory.
        if linked:
            file.seek(0)
            with open_tar(fileobj=cast(BinaryIO, _HeaderReader(file)), mode="r:") as tar:
                yield from _links(tar, linked, passed_over)
    except Exception as error:  # a mutated archive can make tarfile raise nearly anything
        if isinstance(error, UserError):
            raise
        raise UserError(f"{shown} is no readable tar file ({reason_of(error)}): write or download it again") from None


def _each_header(tar: TarArchive) -> Iterator[TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would keep all
        yield member


def _has_bytes(member: TarInfo) -> bool:
    return member.isreg() and member.sparse is None


def _links(tar: TarArchive, linked: set[str], passed_over: Callable[[str], None]) -> Iterator[TarInfo]:
    """Yield the hard links to members that come before them; others lead nowhere, and are passed over."""
    places: dict[str, TarInfo] = {}
    for member in _each_header(tar):
        if member.islnk() and (target := places.get(member.linkname)) is not None:
            member.offset_data, member.size = target.offset_data, target.size
            yield member
        elif member.islnk():
            passed_over(LINKED)
        elif _has_bytes(member) and member.name in linked:
            places[member.name] = member


class _HeaderReader:
    """A file that refuses to read more than a header's worth at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise ReadError("a header larger than 16 MB")
        return self._file.read(size)


def key_of(name: str) -> str:
    """Return what members that belong together share: ``a/1`` of ``a/1.jpg`` and ``a/1.cls``."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]  # webdataset: the extension begins at the first dot


def extension_of(name: str) -> str:
    """Return what follows the key, in lower case and without the dot."""
    return name[len(key_of(name)) + 1 :].lower()


def read_text(file: BinaryIO, member: Member) -> str:
    """Read a member as text; the position in ``file`` stays."""
    if member.size > MAX_VALUE_BYTES:
        raise UserError(f"{member.name[:200]} in a tar file has {member.size} bytes: too many to keep")
    here = file.tell()
    file.seek(member.offset)
    data = file.read(member.size)
    file.seek(here)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UserError(f"{member.name[:200]} in a tar file is not UTF-8 text: it cannot be kept") from None
