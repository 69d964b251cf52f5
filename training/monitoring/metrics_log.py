"""The log of a run: ``log.jsonl``, which other loggers can follow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

from training.monitoring.loggers import Logger
from zoo.errors import UserError, reason_of
from zoo.system import atomic_files
from zoo.system.json_types import JSON

FILE_NAME = "log.jsonl"
LogLine: TypeAlias = dict[str, JSON]


class MetricsLog:
    """A context manager that appends lines to ``folder/log.jsonl`` and passes them to other loggers.

    With ``folder=None``, as on all ranks but the first, it writes nothing.
    """

    def __init__(self, folder: Path | None, loggers: Sequence[Logger] = ()) -> None:
        self._path = None if folder is None else folder / FILE_NAME
        self._loggers = loggers

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.close()

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """Write one line."""
        if self._path is not None:
            atomic_files.append_line(self._path, json.dumps({"step": step, **values}))
        for logger in self._loggers:
            logger.log(step, values)


def read(folder: Path) -> list[LogLine]:
    """Return the lines of a run's log, without a last line that a kill or a full disk cut off.

    Raises:
        UserError: there is no log, or it is damaged.
    """
    path = folder / FILE_NAME
    # Ignore a last line that was cut off while it was written.
    try:
        complete, _, _ = path.read_text().rpartition("\n")
        lines = [json.loads(line) for line in complete.splitlines()]
        if not all(isinstance(line["step"], int) for line in lines):
            raise ValueError("a line has no step")
        return lines
    except FileNotFoundError:
        raise UserError(f"no run in {folder}: it has no {FILE_NAME}") from None
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = reason_of(error)
        raise UserError(f"{path} cannot be read ({reason}): remove the damaged line, or the file") from None


def curve(lines: list[LogLine], field: str, *, most: int) -> tuple[list[int], list[float]]:
    """Return steps and values of a logged field as at most ``most`` points, each the mean of neighbouring values.

    If a step has several values, as from a check and a monitor, the last one counts.
    """
    values = {line["step"]: line[field] for line in lines if field in line}
    points = sorted((s, v) for s, v in values.items() if isinstance(s, int) and isinstance(v, int | float))
    size = max(1, -(-len(points) // most))
    chunks = [points[n : n + size] for n in range(0, len(points), size)]
    return [chunk[-1][0] for chunk in chunks], [sum(v for _, v in chunk) / len(chunk) for chunk in chunks]


def trim(folder: Path, step: int) -> None:
    """Remove lines after ``step``: a resumed run repeats the steps that were logged but not saved."""
    path = folder / FILE_NAME
    if path.exists():
        lines = [(line["step"], json.dumps(line)) for line in read(folder)]
        kept = "".join(text + "\n" for at, text in lines if isinstance(at, int) and at <= step)
        atomic_files.atomic_write_text(path, kept)


def replan(folder: Path, step: int, now: int, scale: Fraction, plan: str) -> None:
    """Move the lines up to ``step`` to another plan, where that step is ``now``, and remove the later ones.

    A line with ``plan`` ends them. It tells the next resume that they are moved, if the run ends before a checkpoint.

    Args:
        scale: steps of the new plan for one of the old.
        plan: what was changed and when, in words.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return
    lines = read(folder)
    mark: LogLine = {"step": now, "replanned": plan}
    if mark in lines:
        kept = lines[: lines.index(mark)]
    else:
        old = ((line, at) for line in lines if isinstance(at := line["step"], int) and at <= step)
        kept = [{**line, "step": int(at * scale)} for line, at in old]
    atomic_files.atomic_write_text(path, "".join(json.dumps(line) + "\n" for line in [*kept, mark]))
