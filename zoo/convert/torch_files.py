"""Reads files of ``torch.save`` and safetensors; tensors and plain values only, nothing in them is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError


def read_torch(path: Path) -> dict[str, Any]:
    """The dict in a ``.pth``, ``.pt``, ``.pth.tar`` (zip or legacy form) or ``.safetensors`` file, on the CPU.

    Raises:
        UserError: unreadable, damaged, no dict, or it holds more than tensors and plain values; that is then not run.
    """
    if path.suffix == ".safetensors":
        from zoo.weights import read

        return dict(read(path)[0])
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except MemoryError:
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise UserError(f"{path.name} is refused: {_first_line(error)}") from None
    except Exception as error:  # a hostile file can fail in any way
        raise UserError(f"{path.name} is refused: {type(error).__name__}: {_first_line(error)}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path.name} holds a {type(loaded).__name__}, not a dict of tensors")
    return loaded


def state_dict_of(loaded: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict in a checkpoint, wherever the usual codes put it, or the dict itself; other values go."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    return {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
