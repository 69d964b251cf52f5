"""A finished extraction in memory, as ``zoo.read(OUT)`` returns it: rows, columns, neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo.embeddings.columns import Vectors
from zoo.embeddings.manifest import Manifest
from zoo.embeddings.pictures import SHOWN, Pictures, page
from zoo.embeddings.reopen_model import reopen_model
from zoo.errors import UserError, require_positive
from zoo.inference.embedder import Embedder
from zoo.inference.images import ImageLike
from zoo.inference.outputs import EMBEDDING
from zoo.numerics.similarity import ExactSearch, centred, l2_normalize, mean_direction
from zoo.system.terminal import printable

Rows: TypeAlias = "slice | Sequence[int] | Sequence[bool] | NDArray[np.integer[Any]] | NDArray[np.bool_]"
"""Which rows of a result: a slice, their numbers in any order, or a mask of N."""
_QUERIES_AT_ONCE = 256
_MOST_MISSING = 1000  # neighbours that a result of fewer rows may be asked for


class Neighbour(NamedTuple):
    """An image near another one: its row in the result, its path, and the centred cosine of the two embeddings."""

    row: int
    path: str
    cosine: float


class Neighbours(tuple[Neighbour, ...]):
    """Neighbours of an image, nearest first; a notebook shows their pictures."""

    _pictures: Pictures
    _rows: list[int]  # of the extraction
    _sha256: list[str | None]

    @classmethod
    def of(cls, found: Sequence[Neighbour], result: Embeddings) -> Neighbours:
        """Keep what a notebook needs to show them."""
        made = cls(found)
        made._pictures = result.pictures
        made._sha256 = [result.table["sha256"][n.row].as_py() for n in found]
        made._rows = [int(result.rows[n.row]) for n in found]
        return made

    def __repr__(self) -> str:
        lines = [f"{rank:4}  {found.cosine:7.4f}  {found.path}" for rank, found in enumerate(self, 1)]
        return "\n".join(("rank   cosine  path", *map(printable, lines)))

    def _repr_html_(self) -> str:
        shown = zip(self._rows, self, self._sha256, strict=True)
        return page("", [self._pictures.figure(row, n.path, sha, f"{n.cosine:.3f}") for row, n, sha in shown])


class Embeddings:
    """The embeddings of a finished extraction, with the paths and all other columns; ``zoo.read`` makes it.

    ``len(result)`` is N, ``result["sha256"]`` a column as an array [N], ``result["layer3"]`` another output that was
    asked for. ``result[0]`` is a row as a dict of all columns, and so is each of ``for row in result``.
    ``result[:5]``, ``result[result["width"] > 300]`` and ``result[[4, 2]]`` are ``Embeddings`` of these rows, whose
    neighbours are searched among themselves. ``"sha256" in result`` asks for a column. ``numpy.asarray(result)`` gives
    the vectors. In a notebook the first images are shown.

    Attributes:
        folder: the folder that was read.
        manifest: parsed ``_manifest.json``: model, licence, preprocessing, versions, counts.
        table: pyarrow table of the columns other than vectors, N rows in the order of the extraction.
        vectors: float32 [N, D]; rows of NaN where a row has no embedding, with ``all_rows``.
        outputs: the other outputs asked for, [N, ...] by name.
        rows: int64 [N], the row of the extraction that each row here is.
        pictures: makes thumbnails, where it is known where the images are.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        table: pa.Table,
        vectors: Mapping[str, Vectors],
        rows: NDArray[np.int64],
        images: str | None,
    ) -> None:
        self.folder, self.manifest, self.table, self.rows = folder, manifest, table, rows
        self.vectors: NDArray[np.float32] = vectors[EMBEDDING].astype(np.float32, copy=False)
        self.outputs = {name: values for name, values in vectors.items() if name != EMBEDDING}
        self.pictures = Pictures(folder, images)
        self._embedder: tuple[object, Embedder] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @overload
    def __getitem__(self, key: str) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: Rows) -> Embeddings: ...
    def __getitem__(self, key: str | int | np.integer[Any] | Rows) -> NDArray[Any] | dict[str, Any] | Embeddings:
        if isinstance(key, str):
            return self._column(key)
        if isinstance(key, int | np.integer):
            return self._row(int(key))
        return self._rows_of(key)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._row, range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy:
            return np.array(self.vectors, dtype=dtype)
        return np.asarray(self.vectors, dtype=dtype)

    def _column(self, name: str) -> NDArray[Any]:
        if name == EMBEDDING:
            return self.vectors
        if name in self.outputs:
            return self.outputs[name]
        if name not in self.table.schema.names:
            raise KeyError(f"{name!r} is no column: there are {', '.join(self.columns)}")
        found: NDArray[Any] = self.table[name].to_numpy()
        return found

    def _row(self, number: int) -> dict[str, Any]:
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number}: the result has {len(self)} rows")
        values: dict[str, Any] = self.table.slice(number % len(self), 1).to_pylist()[0]
        return {**values, EMBEDDING: self.vectors[number], **{name: of[number] for name, of in self.outputs.items()}}

    def _rows_of(self, key: Rows) -> Embeddings:
        try:
            kept = np.arange(len(self))[key if isinstance(key, slice) else np.asarray(key, _type_of_rows(key))]
            if kept.ndim != 1:
                raise IndexError
        except (IndexError, TypeError, ValueError):
            raise IndexError(
                f"{str(key)[:60]} are no rows of {len(self)}: give a slice, a list of numbers, or a mask of that length"
            ) from None
        vectors = {EMBEDDING: self.vectors[kept], **{name: values[kept] for name, values in self.outputs.items()}}
        part = Embeddings(self.folder, self.manifest, self.table.take(kept), vectors, self.rows[kept], None)
        part.pictures, part._embedder = self.pictures, self._embedder
        return part

    def __repr__(self) -> str:
        return f"Embeddings({str(self.folder)!r}: {len(self)} x {self.vectors.shape[1]}, {self.manifest.get('model')})"

    def _repr_html_(self) -> str:
        first = zip(self.rows[:SHOWN].tolist(), self.paths[:SHOWN], self["sha256"][:SHOWN], strict=True)
        return page(repr(self), [self.pictures.figure(row, path, sha256, "") for row, path, sha256 in first])

    @property
    def columns(self) -> list[str]:
        """Names that ``result[name]`` takes."""
        return [*self.table.schema.names, EMBEDDING, *self.outputs]

    @cached_property
    def paths(self) -> list[str]:
        """Path of each image [N], relative to the source; bytes that are not UTF-8 are escaped."""
        paths: list[str] = self.table["path"].to_pylist()
        return paths

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with a row per image; vectors are arrays in a column. UserError: no pandas."""
        _import("pandas", "to_pandas")
        frame = self.table.to_pandas()
        for name, values in ((EMBEDDING, self.vectors), *self.outputs.items()):
            frame[name] = list(values)
        return frame

    def to_polars(self) -> Any:
        """Return a ``polars.DataFrame`` with a row per image; vectors are a column of arrays. UserError: no polars."""
        polars = _import("polars", "to_polars")
        frame = polars.from_arrow(self.table)
        vectors = ((EMBEDDING, self.vectors), *self.outputs.items())
        return frame.with_columns([polars.Series(name, np.ascontiguousarray(values)) for name, values in vectors])

    def search(
        self,
        image: ImageLike | int | np.integer[Any] | NDArray[np.floating[Any]],
        k: int = 9,
        *,
        model: str | None = None,
        device: str | None = None,
    ) -> Neighbours:
        """Find the ``k`` images whose embeddings are nearest to that of an image, by centred cosine, exactly.

        The mean of the unit vectors of this result is subtracted first, as in ``zoo search``: all embeddings of a
        network share a large part, and without it every cosine is near 1.

        Args:
            image: of any form that an embedder takes; or a row of this result, which is its own nearest; or an
                embedding [D] of the same network.
            model: where the model is now; ``None`` is the name in the manifest.
            device: as in ``zoo.load``.

        Raises:
            UserError: the image cannot be read, the row has no embedding, or the model is not the one that made the
                result.
        """
        query = self._vector_of(image, model, device)
        if not np.isfinite(query).all():
            what = f"row {image}" if isinstance(image, int | np.integer) else "the query"
            raise UserError(f"{what} has no embedding, see the column status")
        rows, cosines = self._exact.search(centred(l2_normalize(query), self._mean), require_positive("k", k))[0]
        cosines = cosines.clip(-1, 1)  # float32 sums reach 1.0000001
        found = [Neighbour(r, self.paths[r], c) for r, c in zip(rows.tolist(), cosines.tolist(), strict=True)]
        return Neighbours.of(found, self)

    def _vector_of(self, image: Any, model: str | None, device: str | None) -> NDArray[np.float32]:
        """Return the embedding [1, D] of an image, a row, or an embedding."""
        if isinstance(image, int | np.integer):
            if not -len(self) <= image < len(self):
                raise UserError(f"row {image}: the result has {len(self)} rows")
            return self.vectors[[int(image)]]
        if getattr(image, "shape", None) == self.vectors.shape[1:]:
            return np.asarray(image, np.float32)[None]
        if self._embedder is None or self._embedder[0] != (model, device):
            self._embedder = (model, device), reopen_model(self.folder, self.manifest, model, device=device)
        return self._embedder[1]([image])

    def neighbours(self, k: int = 9) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the ``k`` nearest other images of each image, by centred cosine, exactly; time grows with N squared.

        Returns:
            Rows int64 [N, k] and their cosines float32 [N, k], nearest first; -1 and NaN where there are fewer.

        Raises:
            UserError: ``k`` is no count, or far above N.
        """
        shape = len(self), require_positive("k", k)
        if k > max(len(self), _MOST_MISSING):
            raise UserError(f"k {k}: the result has {len(self)} rows")
        rows, cosines = np.full(shape, -1, np.int64), np.full(shape, np.nan, np.float32)
        for first in range(0, len(self), _QUERIES_AT_ONCE):
            queries = self._unit[first : first + _QUERIES_AT_ONCE]
            for row, (found, scores) in enumerate(self._exact.search(queries, k + 1), first):
                others = found != row
                count = min(k, int(others.sum()))
                rows[row, :count], cosines[row, :count] = found[others][:count], scores[others][:count]
        return rows, cosines

    @cached_property
    def _mean(self) -> NDArray[np.float64]:
        return mean_direction([l2_normalize(self.vectors)])

    @cached_property
    def _unit(self) -> NDArray[np.float32]:
        return centred(l2_normalize(self.vectors), self._mean)

    @cached_property
    def _exact(self) -> ExactSearch:
        return ExactSearch(self._unit)


def _type_of_rows(key: object) -> type | None:
    return np.int64 if isinstance(key, list | tuple) and not key else None  # an empty list would be float


def _import(package: str, method: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"{method} needs {package}: pip install {package}") from None
