"""Read files of ``torch.save``, safetensors and pickled arrays: tensors and plain values, nothing is executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.convert.readers.safe_pickle import read_pickle
from zoo.errors import UserError, reason_of


def read_torch(path: Path) -> dict[str, Any]:
    """Read the dict in a ``.pth``, ``.pt``, ``.pth.tar`` (zip or legacy form), ``.safetensors`` or ``.pkl`` file.

    Tensors are on the CPU. The arrays of a ``.pkl`` (detectron2's files) become tensors.

    Raises:
        UserError: the file cannot be read, is damaged, is no dict, or holds more than tensors and plain values.
    """
    # Formats that hold arrays only need no unpickling by torch.
    if path.suffix == ".safetensors":
        from zoo.models.state_dict import read_tensors

        return dict(read_tensors(path)[0])
    if path.suffix == ".pkl" and (arrays := _arrays(path)) is not None:
        return arrays
    # Load with weights_only, so that a pickle cannot run code.
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except MemoryError:
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise UserError(f"{path.name} is refused: {reason_of(error)}") from None
    except Exception as error:  # a hostile file can fail in any way
        raise UserError(f"{path.name} is refused: {type(error).__name__}: {reason_of(error)}") from None
    # Every official checkpoint is a dict at its top.
    if not isinstance(loaded, dict):
        raise UserError(f"{path.name} holds a {type(loaded).__name__}, not a dict of tensors")
    return loaded


def state_dict_of(loaded: dict[str, Any]) -> dict[str, Tensor]:
    """Return the state dict under a checkpoint's usual keys, or the dict itself; other values are dropped."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    return {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _arrays(path: Path) -> dict[str, object] | None:
    """Read the dict of a pickle; ``None`` where torch wrote the file, whose legacy form begins with a number."""
    if zipfile.is_zipfile(path):
        return None
    try:
        with path.open("rb") as file:
            tree = read_pickle(file, path.name)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        return _as_tensors(tree) if isinstance(tree, dict) else None
    except (TypeError, RecursionError) as error:  # an array of objects or texts; a dict that holds itself
        raise UserError(f"{path.name} is refused: {reason_of(error)}") from None


def _as_tensors(tree: Mapping[str, object]) -> dict[str, object]:
    def converted(value: object) -> object:
        if isinstance(value, dict):
            return _as_tensors(value)
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    return {key: converted(value) for key, value in tree.items()}
