from __future__ import annotations

import pyarrow as pa

from zoo.extraction.changes import compare
from zoo.sources.file_listing import FILES


def table(*rows: tuple[bytes, int, int]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=FILES)


def test_compare_tells_added_changed_touched_and_removed() -> None:
    old = table((b"a", 1, 1), (b"b", 2, 2), (b"c", 3, 3), (b"d", 4, 4))
    new = table((b"0", 9, 9), (b"a", 1, 1), (b"c", 30, 3), (b"d", 4, 40), (b"e", 5, 5))
    changes = compare(old, new)
    assert changes.previous.tolist() == [-1, 0, 2, 3, -1]
    assert changes.added.tolist() == [0, 4]
    assert changes.resized.tolist() == [2]
    assert changes.touched.tolist() == [3]
    assert changes.removed.tolist() == [1]
