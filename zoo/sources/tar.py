"""Images in tar files, webdataset's among them, as a source for an extraction: read in place."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from tarfile import TarInfo
from typing import BinaryIO

import pyarrow as pa

from zoo.errors import UserError, reason_of
from zoo.sources.base import IN_CONTAINER, ImageRow, container_of, narrowed, require_unique
from zoo.sources.file_listing import LeftOut, Listing, collect, is_hidden
from zoo.sources.metadata import require_texts
from zoo.sources.storage import Storage
from zoo.sources.tar_members import Member, extension_of, key_of, members, read_text
from zoo.transforms.decode import EXTENSIONS


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
            raise others.no_image(shown)
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
                places = self._places(members(file, size, shown, unended, others.add_kind), others)
                for group in _joined(places) if joined else _adjacent(places, bool(self._keep)):
                    yield from self._of_group(file, group, name, mtime_ns, others)
        except OSError as error:
            raise UserError(f"{shown} cannot be read: {error.strerror or reason_of(error)}") from None

    def _places(self, found: Iterator[TarInfo], others: LeftOut) -> Iterator[Member]:
        for member in found:
            if is_hidden(os.fsencode(member.name)):
                others.add(os.fsencode(member.name))
            else:
                yield Member(member.name, member.offset_data, member.size)

    def _of_group(
        self, file: BinaryIO, group: list[Member], container: bytes, mtime_ns: int, others: LeftOut
    ) -> Iterator[tuple[object, ...]]:
        images = [member for member in group if _is_image(member)]
        kept = self._kept(file, group) if self._keep and images else []
        for member in images:
            path = container + b"/" + os.fsencode(member.name)
            yield path, member.size, mtime_ns, len(container), member.offset, *kept
        for member in () if images else group:
            others.add(os.fsencode(member.name))

    def _kept(self, file: BinaryIO, group: list[Member]) -> list[str | None]:
        beside: dict[str, Member] = {}
        for member in group:
            extension = extension_of(member.name)
            if extension in beside and extension in (*self._keep, "json"):
                raise UserError(f"{member.name[:200]} is twice in a tar file: leave one out")
            beside[extension] = member
        fields: Mapping[str, object] = {}
        if "json" in beside and not all(name in beside or name == "key" for name in self._keep):
            try:
                loaded = json.loads(read_text(file, beside["json"]))
                require_texts(loaded)
            except (ValueError, RecursionError):
                raise UserError(f"{beside['json'].name[:200]} in a tar file is no readable JSON") from None
            fields = loaded if isinstance(loaded, dict) else {}
        return [self._value(name, file, beside, fields, group[0]) for name in self._keep]

    def _value(
        self, name: str, file: BinaryIO, beside: Mapping[str, Member], fields: Mapping[str, object], first: Member
    ) -> str | None:
        if name == "key":
            return os.fsencode(key_of(first.name)).decode(errors="backslashreplace")
        if name in beside:
            return read_text(file, beside[name]).strip()
        value = fields.get(name)
        return value if value is None or isinstance(value, str) else json.dumps(value)


class _KeyReappears(Exception):
    """Members of one key do not stand side by side."""


def _adjacent(places: Iterator[Member], must_be: bool) -> Iterator[list[Member]]:
    """Yield the members of each key that stand side by side. Raises _KeyReappears if a key comes again and must not."""
    seen: set[int] = set()
    for key, group in groupby(places, key=lambda place: key_of(place.name)):
        if must_be and hash(key) in seen:
            raise _KeyReappears
        if must_be:
            seen.add(hash(key))  # of a key, not the key: there may be millions
        yield list(group)


def _joined(places: Iterator[Member]) -> Iterator[list[Member]]:
    """Yield each image with the other members of its key, in the order of the images; all are in memory."""
    images: list[Member] = []
    beside: dict[str, list[Member]] = {}
    for place in places:
        if _is_image(place):
            images.append(place)
        else:
            beside.setdefault(key_of(place.name), []).append(place)
    yield from ([image, *beside.get(key_of(image.name), ())] for image in images)
    with_image = {key_of(image.name) for image in images}
    yield from (group for key, group in beside.items() if key not in with_image)


def _is_image(place: Member) -> bool:
    return os.path.splitext(place.name)[1].lower() in EXTENSIONS
