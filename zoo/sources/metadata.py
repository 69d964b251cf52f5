"""Tables that say something of image files: CSV, TSV, JSON lines, and Hugging Face's ``metadata.*`` beside images."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from zoo.errors import UserError, reason_of
from zoo.sources.base import narrowed, require_single, texts
from zoo.sources.csv_quotes import QuoteWatch
from zoo.sources.file_listing import FILES, collect, is_hidden
from zoo.sources.storage import Local
from zoo.system.parquet import read_table

PATH_COLUMNS = ("path", "file_name")
_FILE_NAME = "file_name"
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_MAX_LINE_BYTES = 1 << 24


def read_csv(
    file: BinaryIO, shown: str, delimiter: str = ",", choose: Callable[[list[str]], list[str]] | None = None
) -> pa.Table:
    """Read a table with a header; every value is bytes: a path need not be UTF-8, and a label "007" must stay that.

    Args:
        delimiter: what separates the values; a semicolon or a tab where the header has none of it.
        choose: which columns to read of those in the header; ``None`` reads all.

    Raises:
        UserError: it is no table, or what ``choose`` raises.
    """
    names, delimiter = read_header(file, shown, delimiter)
    wanted = choose(names) if choose else names
    require_single(names, wanted, shown)
    first = file.read(1)
    if not first:
        return pa.table({name: pa.array([], pa.binary()) for name in wanted})
    path = wanted[0] if choose else _FILE_NAME
    watch = QuoteWatch(len(names), names.index(path) if path in names else 0, delimiter)
    try:
        table = pyarrow.csv.read_csv(
            pa.PythonFile(_Joined(first, file, watch), mode="r"),
            read_options=pyarrow.csv.ReadOptions(column_names=names),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.binary()),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowException, ValueError) as error:
        watch.require_closed(shown)  # which explains more than what it does to the columns
        raise UserError(f"{shown} is no readable table ({reason_of(error)})") from None
    watch.require_closed(shown)
    return table


def read_header(file: BinaryIO, shown: str, delimiter: str = ",") -> tuple[list[str], str]:
    """Return the columns that the first line names, and what separates them; as ``read_csv``. Raises UserError."""
    line = file.readline(_MAX_LINE_BYTES)
    require_utf8(line, shown)
    head = line.decode("utf-8-sig", errors="backslashreplace")
    if not head.strip():
        raise UserError(f"{shown} is no readable table (its first line is empty)")
    if delimiter not in head:  # spreadsheets write semicolons where the comma is the decimal mark
        delimiter = next((other for other in ";\t" if other in head), delimiter)
    try:
        return next(csv.reader([head.rstrip("\r\n")], delimiter=delimiter), []), delimiter
    except csv.Error as error:  # a carriage return inside of the line; a field of megabytes
        raise UserError(f"{shown} is no readable table (its first line: {reason_of(error)})") from None


def require_utf8(head: bytes, shown: str) -> None:
    """Check the first bytes of a list or table. UserError: they are UTF-16, whose every other byte looks like an end.

    Every second of the first bytes is zero in UTF-16 without a mark, as in no list of paths between zero bytes.
    """
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in head
    first = head[:8]
    halved = len(first) == 8 and (not any(first[1::2]) or not any(first[::2]))
    if marked or (halved and b"\n" in head):
        raise UserError(f"{shown} is UTF-16, as PowerShell and spreadsheets write it: save it as UTF-8")


def read_jsonl(file: BinaryIO, shown: str) -> pa.Table:
    """Read an object per line; columns are those of any line. Raises UserError."""
    rows: list[dict[str, object]] = []
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), 1):
        if number == 1:
            require_utf8(line, shown)
        if not line.strip():
            continue
        try:
            row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            require_texts(row)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{shown}: line {number} is no JSON object in UTF-8")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _json_column([row.get(name) for row in rows]) for name in names})


def require_texts(value: object) -> None:
    """Raise ValueError where a parsed JSON value holds half of a surrogate pair, which is no text."""
    json.dumps(value, ensure_ascii=False).encode()


def _json_column(values: list[object]) -> pa.Array:
    """Return numbers and truth values as they are, anything else as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds and (kinds <= {int, float} or kinds == {bool}):
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):
            pass
    return pa.array(
        [value if value is None or isinstance(value, str) else json.dumps(value) for value in values], pa.string()
    )


def kept_column(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return a column as a result can carry it: bytes become text, or numbers where all are written as such."""
    if pa.types.is_binary(column.type):
        return narrowed(texts(column, name))
    if pa.types.is_dictionary(column.type):
        column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks])
    types = pa.types
    if types.is_large_string(column.type) or types.is_string_view(column.type) or types.is_null(column.type):
        return column.cast(pa.string())
    if types.is_string(column.type) or types.is_integer(column.type) or types.is_boolean(column.type):
        return column
    if types.is_floating(column.type):
        return column
    raise UserError(f"column {name} is {column.type}: only numbers, texts and booleans can be kept")


def paths_in(column: pa.ChunkedArray) -> Iterator[bytes | None]:
    """Yield the paths in a column of bytes or texts."""
    for value in column:
        found = value.as_py()
        yield found if found is None or isinstance(found, bytes) else os.fsencode(str(found))


def with_metadata(root: Path, files: pa.Table, keep: list[str]) -> pa.Table:
    """Append columns of the ``metadata.*`` files in a folder and below it to a listing of its images.

    ``file_name`` is relative to the folder of its metadata file. A file that it names and that is not there becomes a
    row, so that it is told; an image that it does not name has nulls.

    Raises:
        UserError: there is no such column; the message says which there are.
    """
    tables = [_with_paths(root, path) for path in _metadata_files(root)]
    if not tables:
        raise UserError(
            f"{root} has no column {keep[0]}: separate files have only the column folder to keep, and those "
            f"of {', '.join(METADATA)} beside them"
        )
    known = list(dict.fromkeys(name for table in tables for name in table.column_names if name != "path"))
    if missing := [name for name in keep if name not in known]:
        raise UserError(f"{root} has no column {missing[0]}: its metadata have {', '.join(known)}")
    # Join by the path: row numbers of the metadata for each image.
    columns = [t.select(["path", *(n for n in keep if n in t.column_names)]) for t in tables]
    try:
        table = pa.concat_tables(columns, promote_options="permissive")
    except pa.ArrowException:
        raise UserError(f"the metadata files in {root} have columns of different types") from None
    counts = pc.value_counts(table["path"])
    if (counts.field("counts").to_numpy() > 1).any():
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise UserError(f"the metadata in {root} name {os.fsdecode(twice)!r} twice: leave one out")
    absent = table["path"].filter(pc.invert(pc.is_in(table["path"], files["path"].combine_chunks())))
    added = collect((_row(root, path) for path in absent.to_pylist()), FILES)
    files = pa.concat_tables([files, added]).sort_by("path")
    places = pc.index_in(files["path"], table["path"].combine_chunks())
    for name in keep:
        files = files.append_column(name, table[name].take(places))
    return files


def _row(root: Path, path: bytes) -> tuple[bytes, int, int]:
    """Return the row of a file without an image's name; one outside of the folder is not looked at."""
    is_outside = path.startswith((b"/", b"../")) or path == b".."
    return (path, -1, -1) if is_outside else (path, *Local(root).size_and_time(path))


def _metadata_files(root: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_hidden(os.fsencode(name)))
        found += [Path(folder, name) for name in METADATA if name in names]
    return found


def _with_paths(root: Path, path: Path) -> pa.Table:
    """Read one metadata file; its column ``path`` is relative to ``root``."""
    try:
        if path.suffix == ".parquet":
            table = read_table(path)
        else:
            with path.open("rb") as file:
                table = read_jsonl(file, str(path)) if path.suffix == ".jsonl" else read_csv(file, str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or reason_of(error)}") from None
    except pa.ArrowException as error:
        raise UserError(f"{path} is no readable table ({reason_of(error)})") from None
    require_single(table.column_names, table.column_names, path)
    if _FILE_NAME not in table.column_names:
        raise UserError(f"{path} has no column {_FILE_NAME}; it has {', '.join(table.column_names)}")
    below = os.fsencode(path.parent.relative_to(root))
    paths = [
        os.path.normpath(os.path.join(below, name.replace(b"\\", b"/"))) if name else None
        for name in paths_in(table[_FILE_NAME])
    ]
    columns = {name: kept_column(table[name], name) for name in table.column_names if _can_be_kept(table[name].type)}
    columns.pop("path", None)
    joined = pa.table({"path": pa.array(paths, pa.binary()), **columns})
    return joined.filter(pc.is_valid(joined["path"]))


def _can_be_kept(type: pa.DataType) -> bool:
    types = pa.types
    value = type.value_type if types.is_dictionary(type) else type
    return bool(
        types.is_binary(value)
        or types.is_string(value)
        or types.is_large_string(value)
        or types.is_string_view(value)
        or types.is_null(value)
        or types.is_integer(value)
        or types.is_boolean(value)
        or types.is_floating(value)
    )


class _Joined:
    """A file whose first bytes were already read; what is read of it is watched."""

    closed = False

    def __init__(self, head: bytes, rest: BinaryIO, watch: QuoteWatch) -> None:
        self._head, self._rest, self._watch = head, rest, watch

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes."""
        if self._head:
            part = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(part) :]
        else:
            part = self._rest.read(size)
        self._watch.feed(part)
        return part

    def close(self) -> None:
        """Leave the file open: who opened it closes it."""
