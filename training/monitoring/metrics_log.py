"""What a run writes down while it goes: ``log.jsonl``, and for TensorBoard the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.errors import UserError, reason_of
from zoo.system import atomic_files

LOG = "log.jsonl"


class Journal:
    """Appends lines to ``folder/log.jsonl`` and, asked for, scalars to ``folder/tensorboard``; a context manager.

    Without a folder, as on all ranks but the first, nothing is written. ``step`` is where the run goes on: later
    scalars of an interrupted part are dropped.

    Raises:
        UserError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path | None, *, step: int, tensorboard: bool = False) -> None:
        self._path = None if folder is None else folder / LOG
        self._board = _writer(folder / "tensorboard", step) if tensorboard and folder is not None else None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line; of ``values``, what is a number becomes a scalar."""
        if self._path is not None:
            atomic_files.append_line(self._path, json.dumps({"step": step, **values}))
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last one that a kill or a full disk cut off is left out.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / LOG
    try:
        whole, _, _ = path.read_text().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines()]
        if not all(isinstance(line["step"], int) for line in lines):
            raise ValueError("a line without a step")
        return lines
    except FileNotFoundError:
        raise UserError(f"no run in {folder}: it has no {LOG}") from None
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = reason_of(error)
        raise UserError(f"{path} cannot be read ({reason}): remove the line that is damaged, or the file") from None


def trim(folder: Path, step: int) -> None:
    """Drops lines after ``step``: the steps a killed run logged but did not save are made again."""
    path = folder / LOG
    if path.exists():
        kept = [json.dumps(line) for line in read(folder) if line["step"] <= step]
        atomic_files.atomic_write_text(path, "".join(line + "\n" for line in kept))


def _writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs tensorboard: pip install 'siamese-zoo[train]'") from None
    atomic_files.make_folder(folder)
    return SummaryWriter(str(folder), purge_step=step + 1)
