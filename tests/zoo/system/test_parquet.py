"""Sound tables read as pyarrow reads them; ``tests/faults/test_hostile_files.py`` has the hostile ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo.system.parquet import read_table

N = 20_000
TABLE = pa.table(
    {
        "path": [f"train/class_{n % 100}/{n:08d}.jpg" for n in range(N)],
        "status": ["ok", None] * (N // 2),
        "row": pa.array(range(N), pa.int32()),
        "vector": pa.array([[float(n), 0.5] for n in range(N)], pa.list_(pa.float32(), 2)),
        "image": [{"bytes": b"\xff\xd8" * (n % 7), "path": str(n)} for n in range(N)],
        "tags": [["a", f"b{n % 9}"] * (n % 3) for n in range(N)],
    }
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"compression": "zstd", "data_page_version": "2.0", "row_group_size": 3000},
        {"use_dictionary": False, "column_encoding": {"path": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"path": "DELTA_LENGTH_BYTE_ARRAY", "row": "DELTA_BINARY_PACKED"}},
    ],
    ids=["dictionary", "plain", "pages 2", "delta", "delta length"],
)
def test_real_tables_in_any_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    file = io.BytesIO()
    pq.write_table(TABLE, file, **options)
    # A small allowance, so that the texts are looked at.
    monkeypatch.setattr("zoo.system.parquet._FREE_BYTES", 5 << 20)
    assert read_table(file.getvalue()).equals(TABLE)
    assert read_table(file.getvalue(), ["status", "image", "none"]).equals(TABLE.select(["status", "image"]))
