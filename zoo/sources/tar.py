"""Images in tar files, webdataset's among them: read in place, nothing is ever unpacked."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from tarfile import TarInfo
from typing import Any, BinaryIO

import pyarrow as pa

from zoo.errors import UserError
from zoo.sources.base import IN_CONTAINER, collect, narrowed, one_line, require_unique
from zoo.sources.file_listing import Listing
from zoo.sources.storage import Storage
from zoo.sources.tar_shards import walk
from zoo.transforms.decode import EXTENSIONS

_MOST_BYTES_OF_A_VALUE = 1 << 20


class Tars:
    """The images of tar files, in the order of the files and of their members.

    A name is that of the tar file, '/', and the member's. Columns to keep are members beside an image, as webdataset
    has them: of ``a/1.jpg`` the column ``cls`` is the text of ``a/1.cls`` (its members stand one behind the other), and
    any other the field of that name in ``a/1.json``; ``key`` is ``a/1``.
    """

    def __init__(self, where: Storage, files: Sequence[bytes], keep: Sequence[str] = ()) -> None:
        self._storage = where
        self._files = list(files)
        self._keep = list(keep)

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """See Source."""
        schema = pa.schema([*IN_CONTAINER, *((name, pa.string()) for name in self._keep)])
        others = 0

        def rows() -> Iterator[tuple[Any, ...]]:
            nonlocal others
            for file in self._files:
                for row in self._of_file(file):
                    if row is None:
                        others += 1
                    else:
                        yield row

        found = collect(rows(), schema)
        shown = os.fsdecode(self._files[0]) + (" ..." if len(self._files) > 1 else "")
        if not len(found):
            raise UserError(f"no image in {shown} ({others} other members): they end in {' '.join(sorted(EXTENSIONS))}")
        for name in self._keep:
            if found[name].null_count == len(found):
                raise UserError(f"{shown} has no column {name}: no image has a .{name} member or .json field beside it")
            found = found.set_column(found.schema.get_field_index(name), name, narrowed(found[name]))
        return Listing(require_unique(found, shown), others, 0)

    def read(self, row: Mapping[str, Any]) -> bytes:
        """See Source."""
        container = row["path"][: row["inside"]]
        return self._storage.read_part(container, row["offset"], row["size"], row["mtime_ns"])

    def _of_file(self, name: bytes) -> Iterator[tuple[Any, ...] | None]:
        shown = self._storage.root + os.fsdecode(name)
        try:
            size, mtime_ns = self._storage.facts(name)
            if size < 0:
                raise UserError(f"no tar file at {shown}")
            with self._storage.open(name) as file:
                # Groups and not a table of all keys: a tar file may have any number of members.
                for _, group in groupby(walk(file, size, shown), key=lambda member: _key(member.name)):
                    yield from self._of_group(file, list(group), name, mtime_ns)
        except OSError as error:
            raise UserError(f"{shown} cannot be read: {error.strerror or one_line(error)}") from None

    def _of_group(
        self, file: BinaryIO, members: list[TarInfo], container: bytes, mtime_ns: int
    ) -> Iterator[tuple[Any, ...] | None]:
        images = [m for m in members if os.path.splitext(m.name)[1].lower() in EXTENSIONS]
        kept = self._kept(file, members) if self._keep and images else []
        for member in images:
            path = container + b"/" + os.fsencode(member.name)
            yield path, member.size, mtime_ns, len(container), member.offset_data, *kept
        if not images:
            yield from (None for _ in members)

    def _kept(self, file: BinaryIO, members: list[TarInfo]) -> list[str | None]:
        beside = {member.name[len(_key(member.name)) + 1 :].lower(): member for member in members}
        fields: dict[str, Any] = {}
        if "json" in beside and not all(name in beside or name == "key" for name in self._keep):
            try:
                loaded = json.loads(_text(file, beside["json"]))
            except (ValueError, RecursionError):
                raise UserError(f"{beside['json'].name[:200]} in a tar file is no readable JSON") from None
            fields = loaded if isinstance(loaded, dict) else {}
        return [self._value(name, file, beside, fields, members[0]) for name in self._keep]

    def _value(
        self, name: str, file: BinaryIO, beside: dict[str, TarInfo], fields: dict[str, Any], first: TarInfo
    ) -> str | None:
        if name == "key":
            return os.fsencode(_key(first.name)).decode(errors="backslashreplace")
        if name in beside:
            return _text(file, beside[name]).strip()
        value = fields.get(name)
        return value if value is None or isinstance(value, str) else json.dumps(value)


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]  # webdataset: the extension begins at the first dot


def _text(file: BinaryIO, member: TarInfo) -> str:
    if member.size > _MOST_BYTES_OF_A_VALUE:
        raise UserError(f"{member.name[:200]} in a tar file has {member.size} bytes: too many to keep")
    here = file.tell()
    file.seek(member.offset_data)
    data = file.read(member.size)
    file.seek(here)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UserError(f"{member.name[:200]} in a tar file is not UTF-8 text: it cannot be kept") from None
