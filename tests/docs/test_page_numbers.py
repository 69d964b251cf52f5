"""The table "Search and look" of ``docs/results.md`` has the numbers of its JSON."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_the_page_is_its_json() -> None:
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = results.partition("\n## Search and look\n")[2].partition("\n## ")[0]
    measured = json.loads((ROOT / "benchmarks" / "results" / "page.json").read_text(encoding="utf-8"))
    rows = [
        f"| {row['images']:,} | {row['first_paint_ms'] / 1000:.2f} s | {row['map_ms'] / 1000:.2f} s "
        f"| {row['pan_frame_median_ms']:.1f} / {row['pan_frame_p95_ms']:.1f} ms "
        f"| {row['pan_paint_median_ms']:.1f} / {row['pan_paint_p95_ms']:.1f} ms "
        f"| {row['server_memory_at_start_bytes'] / 1e6:.0f} / {row['server_memory_peak_bytes'] / 1e6:.0f} MB |"
        for row in measured["rows"]
    ]
    assert [line for line in section.splitlines() if line[2:3].isdigit()] == [row.replace(",", " ") for row in rows]
    assert f"load {measured['cpu']['load']:.0f}" in section
    assert measured["command"] in section
    slowest = max(run["first_paint_ms"] for run in measured["rows"][-1]["runs"]) / 1000
    assert f"first paint after {slowest:.2f} s" in section
