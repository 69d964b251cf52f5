"""Images in tar files, webdataset's among them: read in place, nothing is ever unpacked.

``TarFiles`` is a source for an extraction; ``samples`` lists labelled images for training and evaluation. Both read
the headers with ``members``. A member's name is only a name. A hard link to a member has that member's bytes; other
links and devices are skipped.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tarfile import ReadError, TarInfo
from tarfile import TarFile as TarArchive
from tarfile import open as open_tar
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa

from zoo.errors import UserError, reason_of
from zoo.sources.base import IN_CONTAINER, ImageRow, container_of, narrowed, require_unique
from zoo.sources.file_listing import LeftOut, Listing, collect, is_hidden
from zoo.sources.metadata import require_texts
from zoo.sources.storage import Local, Storage
from zoo.sources.tar_end import require_end
from zoo.transforms.decode import EXTENSIONS
from zoo.transforms.image_bytes import read_part
from zoo.transforms.unreadable import UnreadableImage

_LABEL_KEYS = ("label", "cls")  # of KEY.json
_MAX_VALUE_BYTES = 1 << 20  # of a label or a kept value
_MAX_HEADER_BYTES = 1 << 24  # of a long name or a pax header; tarfile would read any size into memory
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


class TarFiles:
    """The images of tar files, in the order of the files and of their members.

    The name of an image is that of the tar file, '/', and the member's. Columns to keep are members beside an image,
    as webdataset has them: for ``a/1.jpg`` the column ``cls`` is the text of ``a/1.cls``, any other column the field of
    that name in ``a/1.json``; ``key`` is ``a/1``. The members of a key may stand apart. Hidden members are left out.
    """

    def __init__(self, where: Storage, files: Sequence[bytes], keep: Sequence[str] = ()) -> None:
        self._storage = where
        self._files = list(files)
        self._keep = list(keep)

    def require_columns(self) -> None:
        """Return: a column is members beside an image, wherever they stand; see ``Source``."""

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the images; see ``Source``."""
        shown = os.fsdecode(self._files[0]) + (" ..." if len(self._files) > 1 else "")
        # Members of a key mostly stand side by side, as webdataset wants it: then one group is in memory at a time.
        others, unended = LeftOut(), dict[str, None]()
        try:
            found = self._collected(others, unended, joined=False)
        except _KeyReappears:
            others = LeftOut()
            found = self._collected(others, unended, joined=True)
        if not len(found):
            known = " ".join(sorted(EXTENSIONS))
            raise UserError(f"no image in {shown} ({others.total} other members): they end in {known}")
        # Check each kept column, and choose its narrowest type.
        for name in self._keep:
            if found[name].null_count == len(found):
                raise UserError(f"{shown} has no column {name}: no image has a .{name} member or .json field beside it")
            found = found.set_column(found.schema.get_field_index(name), name, narrowed(found[name]))
        return Listing(require_unique(found, shown), others.total, 0, others.kinds, tuple(unended))

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        return self._storage.read_part(container_of(row), row["offset"], row["size"], row["mtime_ns"])

    def _collected(self, others: LeftOut, unended: dict[str, None], *, joined: bool) -> pa.Table:
        schema = pa.schema([*IN_CONTAINER, *((name, pa.string()) for name in self._keep)])
        return collect((row for file in self._files for row in self._of_file(file, others, unended, joined)), schema)

    def _of_file(
        self, name: bytes, others: LeftOut, unended: dict[str, None], joined: bool
    ) -> Iterator[tuple[object, ...]]:
        shown = self._storage.root + os.fsdecode(name)
        # Check that the file is there before it opens.
        try:
            size, mtime_ns = self._storage.size_and_time(name)
            if size < 0:
                raise UserError(f"no tar file at {shown}")
            with self._storage.open(name) as file:
                places = self._places(members(file, size, shown, unended), others)
                for group in _joined(places) if joined else _adjacent(places, bool(self._keep)):
                    yield from self._of_group(file, group, name, mtime_ns, others)
        except OSError as error:
            raise UserError(f"{shown} cannot be read: {error.strerror or reason_of(error)}") from None

    def _places(self, found: Iterator[TarInfo], others: LeftOut) -> Iterator[_Place]:
        for member in found:
            if is_hidden(os.fsencode(member.name)):
                others.add(os.fsencode(member.name))
            else:
                yield _Place(member.name, member.offset_data, member.size)

    def _of_group(
        self, file: BinaryIO, group: list[_Place], container: bytes, mtime_ns: int, others: LeftOut
    ) -> Iterator[tuple[object, ...]]:
        images = [member for member in group if _is_image(member)]
        kept = self._kept(file, group) if self._keep and images else []
        for member in images:
            path = container + b"/" + os.fsencode(member.name)
            yield path, member.size, mtime_ns, len(container), member.offset, *kept
        for member in () if images else group:
            others.add(os.fsencode(member.name))

    def _kept(self, file: BinaryIO, group: list[_Place]) -> list[str | None]:
        beside: dict[str, _Place] = {}
        for member in group:
            extension = _extension(member.name)
            if extension in beside and extension in (*self._keep, "json"):
                raise UserError(f"{member.name[:200]} is twice in a tar file: leave one out")
            beside[extension] = member
        fields: Mapping[str, object] = {}
        if "json" in beside and not all(name in beside or name == "key" for name in self._keep):
            try:
                loaded = json.loads(_text(file, beside["json"]))
                require_texts(loaded)
            except (ValueError, RecursionError):
                raise UserError(f"{beside['json'].name[:200]} in a tar file is no readable JSON") from None
            fields = loaded if isinstance(loaded, dict) else {}
        return [self._value(name, file, beside, fields, group[0]) for name in self._keep]

    def _value(
        self, name: str, file: BinaryIO, beside: Mapping[str, _Place], fields: Mapping[str, object], first: _Place
    ) -> str | None:
        if name == "key":
            return os.fsencode(_key(first.name)).decode(errors="backslashreplace")
        if name in beside:
            return _text(file, beside[name]).strip()
        value = fields.get(name)
        return value if value is None or isinstance(value, str) else json.dumps(value)


class _Place(NamedTuple):
    """A member of a tar file; a TarInfo takes several times its memory."""

    name: str
    offset: int
    size: int


class _KeyReappears(Exception):
    """Members of one key do not stand side by side."""


def _adjacent(places: Iterator[_Place], must_be: bool) -> Iterator[list[_Place]]:
    """Yield the members of each key that stand side by side. Raises _KeyReappears if a key comes again and must not."""
    seen: set[int] = set()
    for key, group in groupby(places, key=lambda place: _key(place.name)):
        if must_be and hash(key) in seen:
            raise _KeyReappears
        if must_be:
            seen.add(hash(key))  # of a key, not the key: there may be millions
        yield list(group)


def _joined(places: Iterator[_Place]) -> Iterator[list[_Place]]:
    """Yield each image with the other members of its key, in the order of the images; all are in memory."""
    images: list[_Place] = []
    beside: dict[str, list[_Place]] = {}
    for place in places:
        if _is_image(place):
            images.append(place)
        else:
            beside.setdefault(_key(place.name), []).append(place)
    yield from ([image, *beside.get(_key(image.name), ())] for image in images)
    with_image = {_key(image.name) for image in images}
    yield from (group for key, group in beside.items() if key not in with_image)


def _is_image(place: _Place) -> bool:
    return os.path.splitext(place.name)[1].lower() in EXTENSIONS


@dataclass(frozen=True)
class TarFile:
    """A tar file as it was when its headers were read."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class TarSample:
    """A labelled image in a tar file.

    Attributes:
        shard: the tar file.
        name: the member's name.
        offset, size: the bytes ``offset .. offset + size`` of the tar file are the image.
        label: ``None`` where the image has none.
    """

    shard: TarFile
    name: str
    offset: int
    size: int
    label: int | str | None

    def read(self) -> bytes:
        """Return the bytes of the image.

        Raises:
            UnreadableImage: the tar file is gone, cannot be read, or is not the one whose headers were read.
        """
        path = os.fsencode(self.shard.path)
        data = read_part(path, self.offset, self.size, mtime_ns=self.shard.mtime_ns)
        # Two files written within one tick of the clock have the same time.
        if Local("").size_and_time(path)[0] != self.shard.size:
            raise UnreadableImage("changed", "the tar file is not the one whose headers were read")
        return data


def samples(shards: list[Path]) -> list[TarSample]:
    """List the images of tar files, in their order, with the labels of ``KEY.cls`` or ``KEY.json``.

    Raises:
        UserError: a tar file is missing, compressed or damaged, or holds two images of one key.
    """
    found: list[TarSample] = []
    for path in shards:
        found += _samples_of(path)
    if not found:
        raise UserError(f"no image in {shards[0]}: members must be called KEY.jpg, with KEY.cls or KEY.json beside")
    return found


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
    file: BinaryIO, length: int, shown: Path | str, unended: dict[str, None] | None = None
) -> Iterator[TarInfo]:
    """Yield the regular files in a tar of ``length`` bytes, each within it and after the one before.

    Behind them come hard links to them, each with the place and size of the bytes that it names: GNU tar stores a file
    once, and each further name of it as a link.

    Args:
        shown: the name of the tar file in messages.
        unended: gets that name as a key if the file may be cut off behind a member; see ``require_end``.

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
            if not require_end(file, tar.offset) and unended is not None:
                unended[str(shown)] = None
        # A second walk finds what the links name, so that archives without links keep no names in memory.
        if linked:
            file.seek(0)
            with open_tar(fileobj=cast(BinaryIO, _HeaderReader(file)), mode="r:") as tar:
                yield from _links(tar, linked)
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


def _links(tar: TarArchive, linked: set[str]) -> Iterator[TarInfo]:
    """Yield the hard links to members that come before them; others lead nowhere."""
    places: dict[str, TarInfo] = {}
    for member in _each_header(tar):
        if member.islnk() and (target := places.get(member.linkname)) is not None:
            member.offset_data, member.size = target.offset_data, target.size
            yield member
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


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]  # webdataset: the extension begins at the first dot


def _extension(name: str) -> str:
    return name[len(_key(name)) + 1 :].lower()


def _text(file: BinaryIO, member: _Place) -> str:
    """Read a member as text; the position in ``file`` stays."""
    if member.size > _MAX_VALUE_BYTES:
        raise UserError(f"{member.name[:200]} in a tar file has {member.size} bytes: too many to keep")
    here = file.tell()
    file.seek(member.offset)
    data = file.read(member.size)
    file.seek(here)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UserError(f"{member.name[:200]} in a tar file is not UTF-8 text: it cannot be kept") from None


def _samples_of(path: Path) -> Iterator[TarSample]:
    # Check the shard before it opens.
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a file")
        with path.open("rb") as file:
            # Pair each image with the label beside it.
            images, labels = _by_key(file, status.st_size, path)
            shard = TarFile(path, status.st_size, status.st_mtime_ns)
            for key, image in images.items():
                label = _label(file, labels.get(key, {}), f"{path}: {key}")
                yield TarSample(shard, *image, label)
    except FileNotFoundError:
        raise UserError(f"no tar file at {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _by_key(file: BinaryIO, length: int, path: Path) -> tuple[dict[str, _Place], dict[str, dict[str, _Place]]]:
    """Return images by key, and label members by key and extension."""
    images: dict[str, _Place] = {}
    labels: dict[str, dict[str, _Place]] = {}
    # Sort the members by key into images and labels.
    for member in members(file, length, path):
        key, extension = _key(member.name), _extension(member.name)
        place = _Place(member.name, member.offset_data, member.size)
        if f".{extension}" in EXTENSIONS:
            if key in images:
                raise UserError(f"{path} holds two images called {key!r}: give each a key of its own")
            images[key] = place
        elif extension in ("cls", "json"):
            labels.setdefault(key, {})[extension] = place
    return images, labels


def _label(file: BinaryIO, beside: Mapping[str, _Place], shown: str) -> int | str | None:
    # Find the label's member, and bound its size.
    member = beside.get("cls") or beside.get("json")
    if member is None:
        return None
    if member.size > _MAX_VALUE_BYTES:
        raise UserError(f"{shown}: a label of {member.size} bytes")
    # Read it from its place in the tar file.
    file.seek(member.offset)
    try:
        text = file.read(member.size).decode()
        value: object = text.strip() if "cls" in beside else _label_in_json(json.loads(text))
        require_texts(value)
    except (ValueError, RecursionError):
        raise UserError(f"{shown}: {member.name} is not readable as a label") from None
    # A short number in digits is a class, other text is a name.
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise UserError(f"{shown}: the label in {member.name} is neither a number nor a name")


def _label_in_json(content: object) -> object:
    if not isinstance(content, dict):
        return content
    return next((content[key] for key in _LABEL_KEYS if key in content), None)
