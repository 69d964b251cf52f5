"""Read a finished extraction into memory: ``zoo.read(OUT)``."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo.embeddings import columns
from zoo.embeddings.columns import OK, Vectors
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.manifest import Manifest, files_of
from zoo.embeddings.parts import joined_manifest, result_folders
from zoo.embeddings.pictures import SHOWN, Pictures, page
from zoo.embeddings.reopen_model import reopen_model
from zoo.embeddings.shards import OutputFolder, is_shard_file
from zoo.errors import UserError, require_positive
from zoo.inference.embedder import Embedder
from zoo.inference.images import ImageLike
from zoo.inference.outputs import EMBEDDING
from zoo.numerics.similarity import ExactSearch, centred, l2_normalize, mean_direction
from zoo.system.parquet import read_table
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


def read(
    out: str | Path, *, all_rows: bool = False, outputs: Sequence[str] = (), images: str | Path | None = None
) -> Embeddings:
    """Read a finished extraction: the paths, the embeddings float32 [N, D] and all other columns, of every shard.

    Args:
        out: folder of ``zoo.extract``; or of ``zoo plan`` with the results of its parts, which are read as one.
        all_rows: also the rows without an embedding (failed images, duplicates); their vectors are NaN.
        outputs: other outputs to read, such as ``layer3``.
        images: what was extracted, to show thumbnails in a notebook.

    Raises:
        UserError: the extraction is not finished, a file is missing or altered, or there is no such output.
    """
    root = Path(out).expanduser()
    folders = [OutputFolder(folder) for folder in result_folders(root)]
    found = [_manifest_of(folder) for folder in folders]
    manifest = joined_manifest([manifest for manifest, _, _ in found], [folder.root.name for folder in folders])
    fingerprint = found[0][1]
    # Refuse outputs that the result does not have.
    if isinstance(outputs, str):
        raise UserError(f"outputs {outputs!r}: give a list of names")
    shapes = fingerprint.shapes
    if unknown := [name for name in outputs if name not in shapes]:
        raise UserError(f"{root} has no output {unknown[0]!r}: it has {', '.join(shapes)}")
    wanted = {name: shapes[name] for name in dict.fromkeys((EMBEDDING, *outputs))}
    # Read shard by shard, and keep the rows that are asked for.
    tables, parts, rows, start = [], [], [], 0
    for folder, files in (
        (folder, files) for folder, (_, _, shards) in zip(folders, found, strict=True) for files in shards
    ):
        table, vectors = _read_shard(folder, files, wanted, list(shapes), fingerprint.format)
        ok = np.array([status == OK for status in table["status"].to_pylist()], bool)
        kept = np.arange(len(table)) if all_rows else np.flatnonzero(ok)
        tables.append(table.take(kept).replace_schema_metadata(None))
        parts.append({name: values[kept] for name, values in vectors.items()})
        rows.append(kept + start)
        start += len(table)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in wanted}
    place = None if images is None else str(images)
    return Embeddings(root, manifest, pa.concat_tables(tables), joined, np.concatenate(rows), place)


def _manifest_of(folder: OutputFolder) -> tuple[Manifest, Fingerprint, list[list[tuple[str, str]]]]:
    """Read the manifest: the JSON object, how the result was made, and name and sha256 of each shard's files."""
    if not folder.manifest.is_file():
        if folder.root.is_file():
            raise UserError(f"{folder.root} is a file: give the folder of an extraction")
        missing = "is no finished extraction" if folder.root.is_dir() else "does not exist"
        raise UserError(f"{folder.root} {missing}: run `zoo extract --out {folder.root}` to its end")
    try:
        manifest = json.loads(folder.manifest.read_bytes())
        shards = [[(file.name, file.sha256) for file in files_of(entry)] for entry in manifest["shards"]]
        if not shards or not all(is_shard_file(name) for files in shards for name, _ in files):
            raise ValueError
        return manifest, Fingerprint.from_json(manifest), shards
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{folder.manifest} is damaged: run the same `zoo extract` again") from None


def _read_shard(
    folder: OutputFolder,
    files: Sequence[tuple[str, str]],
    wanted: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
    format: str,
) -> tuple[pa.Table, dict[str, Vectors]]:
    """Return the columns of a shard without vectors, and the wanted outputs; every byte that is read is checked."""
    table_file, hashes = files[0][0], dict(files)
    data = _verified(folder, table_file, hashes)
    try:
        names = pq.read_schema(io.BytesIO(data)).names
        table = read_table(data, [name for name in names if name not in outputs or name in wanted])
        vectors = {name: columns.array(table[name], wanted[name]) for name in wanted if name in names}
        stem = table_file.removesuffix(".parquet")
        for name, held in columns.file_names(stem, format, list(outputs)).items():
            if set(held) & set(wanted):
                vectors |= columns.decode(name, _verified(folder, name, hashes), held)
        found = {name: vectors[name] for name in wanted}
        if any(values.shape != (len(table), *wanted[name]) for name, values in found.items()):
            raise ValueError
    except UserError:
        raise
    except Exception:  # Arrow's exceptions for damaged bytes are no closed set
        raise _damaged(folder, table_file) from None
    return table.drop_columns([name for name in wanted if name in names]), found


def _verified(folder: OutputFolder, name: str, hashes: Mapping[str, str]) -> bytes:
    try:
        data = (folder.root / name).read_bytes()
    except OSError:
        raise _damaged(folder, name) from None
    if hashlib.sha256(data).hexdigest() != hashes.get(name):
        raise _damaged(folder, name)
    return data


def _damaged(folder: OutputFolder, name: str) -> UserError:
    return UserError(f"{folder.root / name} is missing or not what the manifest says: run the same `zoo extract` again")


def _type_of_rows(key: object) -> type | None:
    return np.int64 if isinstance(key, list | tuple) and not key else None  # an empty list would be float


def _import(package: str, method: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"{method} needs {package}: pip install {package}") from None
