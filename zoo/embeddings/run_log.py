"""``_run.log.jsonl``: a line for each start and end of a run, with what the manifest leaves out on purpose."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.system.json_reader import BadJson, fields, parse_json
from zoo.system.json_types import JSON

LOG = "_run.log.jsonl"  # readers of Parquet folders pass over names that begin with _
OLD_LOG = "run.log.jsonl"
"""Its name in results of version 0.2 and before."""
SOURCE = "source"
"""Key of a start: the absolute path of the images, where they were local files."""
_TAIL = 1 << 20  # bytes at the end of a log that are searched; a line has some hundred


def last_start(out: Path) -> dict[str, JSON]:
    """Return the last line of a start that names its source; empty if there is none, or no log."""
    try:
        with (out / LOG).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read(_TAIL).splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            entry = fields(parse_json(line), "event")
        except BadJson:  # a line that was cut off
            continue
        if entry["event"] == "start" and SOURCE in entry:
            return entry
    return {}
