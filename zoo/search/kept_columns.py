"""The columns that ``zoo extract --keep`` carried into a result: captions, colours and filters of the page.

A column with few different values is one of categories, a column of numbers has a scale, any other is a caption only.
The values of a CSV are texts: if all of them are numbers, they count as numbers. Shards are read one at a time, and a
column takes two or four bytes of memory per image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zoo.search.collection import Collection

Kind = Literal["categories", "numbers", "text"]

MAX_CATEGORIES = 1000
"""A column of texts with more different values is a caption only: nobody chooses from such a list."""
FEW = 20
"""Whole numbers with no more different values are categories, as class labels are, more are a scale. Texts with more,
most of which occur once, are a caption only, as names are."""
MAX_TEXT = 200
"""Characters of a value that are shown."""
MISSING = 0xFFFF
"""Code of an image without a value."""
_CACHED_COLUMNS = 8
_CACHED_SHARDS = 16
_CACHED_FILTERS = 32


@dataclass(frozen=True)
class KeptColumn:
    """A column of the result.

    Attributes:
        kind: ``categories`` have codes, ``numbers`` a scale, ``text`` neither.
        values: the categories, the most frequent first; a value's place is its code.
        counts: the number of images of each.
        least, most: ends of the scale; ``None`` without any finite number.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    least: float | None = None
    most: float | None = None


class KeptColumns:
    """Reads the kept columns of a collection; columns of lists, pictures and other nested values are left out."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        kept = collection.manifest.get("keep")
        wanted = [name for name in kept if isinstance(name, str)] if isinstance(kept, list) else []
        self._types: dict[str, pa.DataType] = {}
        if wanted and len(collection):
            schema = collection.table(0, wanted).schema
            self._types = {name: schema.field(name).type for name in wanted if _is_shown(schema.field(name).type)}
        self._table = lru_cache(_CACHED_SHARDS)(lambda shard: collection.table(shard, self.names))
        self.column = lru_cache(_CACHED_COLUMNS)(self._column)
        self.codes = lru_cache(_CACHED_COLUMNS)(self._codes)
        self.rows_with = lru_cache(_CACHED_FILTERS)(self._rows_with)

    @property
    def names(self) -> list[str]:
        """Names of the columns, in the order of ``--keep``."""
        return list(self._types)

    def captions(self, rows: Sequence[int]) -> list[dict[str, str]]:
        """Return the values of each row as texts, by column; missing values are left out."""
        if not self._types:
            return [{} for _ in rows]
        found = []
        for row in rows:
            shard, first = self._collection.shard_of(row)
            values = self._table(shard).slice(row - first, 1).to_pylist()[0]
            found.append({name: shown(value) for name, value in values.items() if value is not None})
        return found

    def _column(self, name: str) -> KeptColumn:
        """Return what the page needs to know of a column. KeyError: there is none of that name."""
        type = self._types[name]
        found = _Survey(is_counted=not _is_real(type), is_number=not (pa.types.is_temporal(type) or _is_bool(type)))
        for _, table in self._collection.tables([name]):
            found.add(table[name])
        counts = found.counts
        if found.is_number and (counts is None or len(counts) > FEW or not found.is_whole):
            return KeptColumn(name, "numbers", least=found.least, most=found.most)
        if counts is None or FEW < len(counts) > sum(counts.values()) / 2:
            return KeptColumn(name, "text")
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return KeptColumn(name, "categories", tuple(v for v, _ in ordered), tuple(n for _, n in ordered))

    def _codes(self, name: str) -> NDArray[np.uint16] | NDArray[np.float32]:
        """Return uint16 [rows] codes of categories, ``MISSING`` without a value, or float32 [rows] numbers, else NaN.

        Raises:
            KeyError: there is no such column, or it is a caption only.
        """
        column = self.column(name)
        if column.kind == "text":
            raise KeyError(name)
        size = len(self._collection)
        if column.kind == "numbers":
            numbers = np.full(size, np.nan, np.float32)
            for start, table in self._collection.tables([name]):
                with np.errstate(over="ignore"):
                    numbers[start : start + len(table)] = _numbers(table[name])
            return numbers
        codes = np.full(size, MISSING, np.uint16)
        known = pa.array(column.values, pa.string())
        for start, table in self._collection.tables([name]):
            places = pc.index_in(_texts(table[name]), value_set=known)
            codes[start : start + len(table)] = pc.fill_null(places, MISSING).to_numpy()
        return codes

    def _rows_with(self, text: str) -> bytes:
        """Return a byte a row: 1 where the path or a kept value contains ``text``, in capitals or not."""
        found = bytearray(len(self._collection))
        for start, table in self._collection.tables(["path", *self.names]):
            hit = np.zeros(len(table), bool)
            for name in table.schema.names:
                match = pc.match_substring(_texts(table[name]), text, ignore_case=True)
                hit |= pc.fill_null(match, False).to_numpy()
            found[start : start + len(table)] = hit.astype(np.uint8).tobytes()
        return bytes(found)


class _Survey:
    """Counts the values of a column and finds the ends of its numbers, shard by shard.

    Attributes:
        counts: by value as a text; ``None`` where they are not counted, or too many.
        is_number: every value is a number.
        is_whole: and a whole one.
        least, most: of the finite ones; ``None`` without any.
    """

    def __init__(self, *, is_counted: bool, is_number: bool) -> None:
        self.counts: Counter[str] | None = Counter() if is_counted else None
        self.is_number, self.is_whole = is_number, True
        self.least: float | None = None
        self.most: float | None = None

    def add(self, column: pa.ChunkedArray) -> None:
        """Take in the column of a shard."""
        if self.counts is not None:
            for pair in pc.value_counts(_texts(column)).to_pylist():
                if pair["values"] is not None:
                    self.counts[pair["values"]] += pair["counts"]
            if len(self.counts) > MAX_CATEGORIES:
                self.counts = None
        if not self.is_number:
            return
        try:
            values = _numbers(column)
        except pa.ArrowInvalid:  # a text that is no number
            self.is_number = False
            return
        values = values[np.isfinite(values)]
        if len(values):
            self.is_whole = self.is_whole and bool((values == np.floor(values)).all())
            ends = float(values.min()), float(values.max())
            self.least = ends[0] if self.least is None else min(self.least, ends[0])
            self.most = ends[1] if self.most is None else max(self.most, ends[1])


def shown(value: object) -> str:
    """Return a value as a text of at most ``MAX_TEXT`` characters, written as in a list of categories."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return float64 [rows], NaN where there is no value. pa.ArrowInvalid: a text is no number."""
    if not _is_number(column.type):
        texts = _texts(column)
        column = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    numbers: NDArray[np.float64] = pc.cast(column, pa.float64(), safe=not _is_number(column.type)).to_numpy()
    return numbers


def _is_bool(type: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(type))


def _is_real(type: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type) or pa.types.is_decimal(type))


def _is_number(type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type)) or _is_real(type)


def _is_shown(type: pa.DataType) -> bool:
    if pa.types.is_dictionary(type):
        type = type.value_type
    is_text = pa.types.is_string(type) or pa.types.is_large_string(type)
    is_time = pa.types.is_date(type) or pa.types.is_timestamp(type)
    return is_text or is_time or _is_number(type) or _is_bool(type)
