"""Data sets of what ``zoo extract --images`` takes: lists, globs, tables, saved data sets, URLs (``zoo.sources``)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from zoo.errors import UserError
from zoo.sources import STDIN, open_source
from zoo.sources.base import ImageRow, Source
from zoo.sources.file_listing import Listing
from zoo.sources.storage import is_url
from zoo.transforms.decode import EXTENSIONS

LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class", "category", "target")
_LISTS = (".txt", ".lst", ".csv", ".tsv", ".jsonl", ".arrow")
_URL_AS_PATH = re.compile(r"^([a-z][a-z0-9+.-]+):/(?!/)")
_NUMBERED_TABLES = re.compile(r"\{\d+\.\.\d+\}.*\.(parquet|arrow)$", re.IGNORECASE)  # tars have a reader of their own
_NO_COLUMN = re.compile(r"has no column|only a \.csv or \.tsv has columns")


class Listed:
    """The rows of a source, and the column of their labels where it has one of the usual names."""

    def __init__(self, text: str, label_column: str | None = None) -> None:
        self.source, self.listing, self.label = _with_labels(text, label_column)
        columns = [name for name in self.listing.files.column_names if name != self.label]
        self._rows = self.listing.files.select(columns)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> ImageRow:
        """Return a row as Python objects."""
        row: ImageRow = self._rows.slice(index, 1).to_pylist()[0]
        return row

    def read(self, index: int) -> bytes:
        """Return the bytes of an image. Raises UnreadableImage: they cannot be read."""
        return self.source.read(self.row(index))

    def name(self, index: int) -> str:
        """Return the path of a row as the source names it."""
        return os.fsdecode(self.row(index)["path"])

    def labels(self) -> list[object] | None:
        """Return the labels as they stand in their column; ``None`` without such a column."""
        return None if self.label is None else self.listing.files[self.label].to_pylist()


def text_of(source: Path | str) -> str:
    """Return the name of a source as text; ``Path`` drops one of the slashes of a URL."""
    return _URL_AS_PATH.sub(r"\1://", str(source))


def takes(text: str) -> bool:
    """True for what only ``zoo.sources`` reads: a list, ``-``, an image, a glob, a URL, a Hugging Face folder."""
    if text == STDIN or is_url(os.fsencode(text)):
        return True
    path = Path(text)
    if path.is_dir():
        data = path / "data"
        is_downloaded = data.is_dir() and any(data.glob("*.parquet")) and not any(path.glob("*.parquet"))
        return is_downloaded or any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    if path.is_file():
        return path.suffix.lower() in (*_LISTS, *EXTENSIONS)
    return any(character in text for character in "*?[") or _NUMBERED_TABLES.search(text) is not None


def split_of(text: str, split: str) -> str | None:
    """Return the source of a split; ``None`` where there is none.

    ``{split}`` in a name stands for the split's name (``lists/{split}.csv``), and a folder of Hugging Face has
    ``data/SPLIT-*.parquet`` or a saved folder of that name.
    """
    if "{split}" in text:
        made = text.replace("{split}", split)
        return made if is_url(os.fsencode(made)) or any(c in made for c in "*?[") or Path(made).exists() else None
    path = Path(text)
    if (path / split / "state.json").is_file():
        return str(path / split)
    return f"{text}/data/{split}-*.parquet" if any((path / "data").glob(f"{split}-*.parquet")) else None


def _with_labels(text: str, label_column: str | None) -> tuple[Source, Listing, str | None]:
    if label_column is not None:  # its absence is an error
        source = open_source(text, [label_column])
        return source, source.listing(), label_column
    for name in LABEL_COLUMNS if text != STDIN else ():  # standard input can be read once, and has no columns
        try:
            source = open_source(text, [name])
            return source, source.listing(), name
        except UserError as error:
            if not _NO_COLUMN.search(str(error)):
                raise
    source = open_source(text)
    return source, source.listing(), None
