"""Read a finished extraction into memory: ``zoo.read(OUT)``."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zoo.embeddings import columns
from zoo.embeddings.columns import OK, Vectors
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.manifest import Manifest, files_of
from zoo.embeddings.parts import joined_manifest, result_folders
from zoo.embeddings.result import Embeddings
from zoo.embeddings.shards import OutputFolder, is_shard_file
from zoo.errors import UserError
from zoo.inference.outputs import EMBEDDING
from zoo.system.parquet import read_table


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
