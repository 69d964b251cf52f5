"""A source that was cut into parts beforehand by ``zoo plan``: each part is a file with its rows, and a source itself.

No process of an extraction lists the whole source then: a part's file says where its images are, and the row numbers,
sizes and times that the listing had. ``_parts.json`` beside them is written last: with it the cut is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from zoo.errors import UserError, reason_of
from zoo.sources.base import IN_CONTAINER, ImageRow, Source, require_listing
from zoo.sources.file_listing import Listing
from zoo.system import atomic_files
from zoo.system.json_reader import BadJson, fields, items, parse_json, read_json, sha256, text, whole
from zoo.system.parquet import read_table

EXTENSION = ".zooplan"
PARTS = "_parts.json"
"""Readers of Parquet folders pass over names that begin with _."""
MAX_PARTS = 1_000_000
_FORMAT = "siamese-zoo parts 1"
_ABOUT = b"zoo.part"
_NAME = re.compile(r"part-[0-9]{5,7}")


@dataclass(frozen=True)
class PartFile:
    """One part of a cut, as ``_parts.json`` names it; ``name`` is that of its file without extension."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Cut:
    """A source cut into parts.

    Attributes:
        folder: holds the parts' files.
        images: the source, a URL or an absolute path.
        parts: in the order of the rows.
        written: number of files that this run wrote.
    """

    folder: Path
    images: str
    parts: tuple[PartFile, ...]
    written: int = 0


@dataclass(frozen=True)
class _About:
    """What a part's file says of itself; ``part`` counts from 0."""

    part: int
    of: int
    images: str
    image_column: str | None

    def to_json(self) -> str:
        return json.dumps({"part": self.part, "of": self.of, "images": self.images, "image_column": self.image_column})

    @classmethod
    def from_json(cls, data: bytes) -> _About:
        found = fields(parse_json(data), "part", "of", "images", "image_column")
        column = found["image_column"]
        of = whole(found["of"], 1, MAX_PARTS)
        images = text(found["images"], 1 << 16)
        if images.lower().endswith(EXTENSION):
            raise BadJson("it is a part of a part")
        return cls(whole(found["part"], 0, of - 1), of, images, None if column is None else text(column))


class PlannedPart:
    """The rows of one part; see ``Source``. They are those of the cut: a file that changed since fails when it is read.

    Args:
        path: a file of ``cut``.
        keep: columns to carry into the result, of those that the cut kept.
        open_source: opens the source that was cut.
    """

    def __init__(
        self, path: Path, keep: Sequence[str], image_column: str | None, open_source: Callable[..., Source]
    ) -> None:
        self._path = path
        self._keep = list(keep)
        self._open_source = open_source
        if image_column is not None:
            raise UserError("a part knows its image column: give --image-column to `zoo plan`")

    def require_columns(self) -> None:
        """Look at the columns that the cut kept; see ``Source``."""
        names = self._opened[0].schema.names
        kept = [name for name in names if name not in IN_CONTAINER.names]
        if missing := [name for name in self._keep if name not in kept]:
            there = f"it has {', '.join(kept)}" if kept else "it kept none"
            raise UserError(f"{self._path} has no column {missing[0]}: {there}; give --keep to `zoo plan`")

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """Return the rows of the part; see ``Source``. No file is looked at."""
        table, about = self._opened
        if not len(table):
            raise UserError(f"{self._path}: part {about.part} of {about.of} has no image: leave it out")
        self.require_columns()
        own = [name for name in table.schema.names if name in IN_CONTAINER.names]
        return Listing(table.select([*own, *self._keep]), 0, 0)

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        return self._source.read(row)

    @cached_property
    def _opened(self) -> tuple[pa.Table, _About]:
        return _read_part(self._path)

    @cached_property
    def _source(self) -> Source:
        about = _about(self._path)
        return self._open_source(about.images, image_column=about.image_column)


def is_empty_part(images: str) -> bool:
    """Return whether a source is a part without rows: there are more parts than images. UserError: it is damaged."""
    if not images.lower().endswith(EXTENSION) or not Path(images).is_file():
        return False
    return not len(_read_part(Path(images))[0])


def cut(source: Source, images: str, parts: int, out: Path, image_column: str | None = None) -> tuple[Cut, Listing]:
    """List a source once and write its rows to ``parts`` files in ``out``, nearly the same number into each.

    A cut that was killed is done again by the same call, with the same bytes; a finished one is left as it is.

    Args:
        images: name of the source that holds in every working folder.

    Raises:
        UserError: the source cannot be listed, or ``out`` holds another cut.
    """
    if not 1 <= parts <= MAX_PARTS:
        raise UserError(f"--parts {parts}: give a number from 1 to {MAX_PARTS}")
    atomic_files.make_folder(out)
    finished = read_cut(out) if (out / PARTS).exists() else None
    if finished is not None and (finished.images, len(finished.parts)) != (images, parts):
        raise UserError(f"{out} holds {len(finished.parts)} parts of {finished.images}: choose another --out")
    # Write each part, unless it is there.
    listing, made, written = source.listing(without=(out,)), [], 0
    for part, table in enumerate(_cut(listing.files, parts)):
        data = _encoded(table, _About(part, parts, images, image_column))
        name, digest = f"part-{part:05d}", hashlib.sha256(data).hexdigest()
        if finished is not None and finished.parts[part].sha256 != digest:
            raise UserError(f"the images changed since {out} was made: choose another --out for `zoo plan`")
        path = out / (name + EXTENSION)
        if not path.is_file() or atomic_files.sha256_file(path) != digest:
            atomic_files.atomic_write_bytes(path, data)
            written += 1
        made.append(PartFile(name, len(table), digest))
    # Their list commits them; what a killed run with more parts left is removed.
    if finished is None:
        entries = [{"file": part.name + EXTENSION, "rows": part.rows, "sha256": part.sha256} for part in made]
        contents = {"format": _FORMAT, "images": images, "parts": entries}
        for path in out.glob(f"part-*{EXTENSION}"):
            if path.stem not in {part.name for part in made}:
                atomic_files.remove(path)
        atomic_files.atomic_write_text(out / PARTS, json.dumps(contents, indent=1) + "\n")
    return Cut(out, images, tuple(made), written), listing


def read_cut(folder: Path) -> Cut:
    """Read ``_parts.json``. Raises UserError."""
    path = folder / PARTS
    try:
        found = fields(read_json(path), "format", "images", "parts")
        if found["format"] != _FORMAT:
            raise BadJson("another version wrote it")
        parts = []
        for number, entry in enumerate(map(fields, items(found["parts"]))):
            name = text(entry.get("file")).removesuffix(EXTENSION)
            if not _NAME.fullmatch(name) or int(name[5:]) != number:
                raise BadJson("it names another file than that of a part")
            parts.append(PartFile(name, whole(entry.get("rows")), sha256(entry.get("sha256"))))
        if not parts:
            raise BadJson("it has no part")
        return Cut(folder, text(found["images"], 1 << 16), tuple(parts))
    except (OSError, BadJson) as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}): run `zoo plan` again, in a new folder") from None


def _cut(files: pa.Table, parts: int) -> Iterator[pa.Table]:
    bounds = [len(files) * part // parts for part in range(parts + 1)]
    return (files.slice(start, end - start) for start, end in pairwise(bounds))


def _encoded(table: pa.Table, about: _About) -> bytes:
    buffer = io.BytesIO()
    # One chunk: the bytes must not depend on how the listing came.
    table = table.combine_chunks().replace_schema_metadata({_ABOUT: about.to_json()})
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _read_part(path: Path) -> tuple[pa.Table, _About]:
    try:
        table = read_table(path, checked=True)
        about = _About.from_json(table.schema.metadata[_ABOUT])
        table = table.combine_chunks().replace_schema_metadata(None)
        require_listing(table)
        return table, about
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or 'it is damaged'}): run `zoo plan` again") from None
    except Exception as error:  # what Arrow raises for damaged bytes is not a closed set
        raise UserError(f"{path} is no part of `zoo plan` ({reason_of(error)}): run it again") from None


def _about(path: Path) -> _About:
    try:
        return _About.from_json(pq.read_schema(path).metadata[_ABOUT])
    except Exception as error:  # as above
        raise UserError(f"{path} is no part of `zoo plan` ({reason_of(error)}): run it again") from None
