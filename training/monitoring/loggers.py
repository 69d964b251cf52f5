"""Loggers of a run besides ``log.jsonl``: TensorBoard, Weights & Biases, MLflow, or your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from zoo.errors import UserError
from zoo.system import atomic_files
from zoo.system.json_types import JSON


class Logger(Protocol):
    """Receives what ``log.jsonl`` receives, on the first rank."""

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Take the values of a step: numbers, and a few texts such as ``hardware``."""

    def close(self) -> None:
        """Called once, however the run ends."""


OpenLogger = Callable[[Path, int, dict[str, JSON]], Logger]
"""Opens a logger for the folder of a run, the step where it starts or resumes, and the recipe as JSON."""


class TensorBoard:
    """Scalars for TensorBoard below ``folder/tensorboard``; those of an interrupted part after ``step`` are dropped."""

    def __init__(self, folder: Path, step: int, recipe: dict[str, JSON]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs tensorboard: pip install 'siamese-zoo[train]'") from None
        atomic_files.make_folder(folder / "tensorboard")
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, object]) -> None:
        for name, value in numbers(values).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases named after the folder; a resumed run goes on in the same one.

    ``WANDB_MODE=offline`` writes below ``folder/wandb`` and sends nothing; ``WANDB_PROJECT`` names the project.
    """

    def __init__(self, folder: Path, step: int, recipe: dict[str, JSON]) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError("--logger wandb needs wandb: pip install 'siamese-zoo[wandb]'") from None
        identifier = folder / "wandb_run_id"
        known = identifier.read_text().strip() if step and identifier.exists() else None
        self._run = wandb.init(
            dir=str(folder), name=folder.name, id=known, resume="allow" if known else None, config=recipe
        )
        atomic_files.atomic_write_text(identifier, f"{self._run.id}\n")

    def log(self, step: int, values: Mapping[str, object]) -> None:
        self._run.log(numbers(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, in the store that ``MLFLOW_TRACKING_URI`` names, or below ``folder/mlruns``."""

    def __init__(self, folder: Path, step: int, recipe: dict[str, JSON]) -> None:
        try:
            from mlflow import MlflowClient, get_tracking_uri, set_tracking_uri
            from mlflow.environment_variables import MLFLOW_TRACKING_URI
        except ImportError:
            raise UserError("--logger mlflow needs mlflow: pip install 'siamese-zoo[mlflow]'") from None
        if not MLFLOW_TRACKING_URI.is_set():
            set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        self._client = MlflowClient(get_tracking_uri())
        identifier = folder / "mlflow_run_id"
        if step and identifier.exists():
            self._id = identifier.read_text().strip()
        else:
            run = self._client.create_run("0", run_name=folder.name)
            self._id = run.info.run_id
            for key, value in _flat(recipe).items():
                self._client.log_param(self._id, key, value)
        atomic_files.atomic_write_text(identifier, f"{self._id}\n")

    def log(self, step: int, values: Mapping[str, object]) -> None:
        for name, value in numbers(values).items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


LOGGERS: Mapping[str, OpenLogger] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def numbers(values: Mapping[str, object]) -> dict[str, float]:
    """Return the values that are numbers."""
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _flat(values: Mapping[str, object], path: str = "") -> dict[str, object]:
    """Return nested values by their dotted paths."""
    found: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = value
    return found
