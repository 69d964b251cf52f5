"""Read files of ``torch.save``, safetensors and pickled arrays: tensors and plain values, nothing is executed."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.convert.readers.safe_pickle import read_pickle
from zoo.convert.readers.torch_claims import check_claims
from zoo.convert.readers.torch_tree import TorchFile, read_tree
from zoo.errors import UserError, reason_of


def read_torch(path: Path) -> TorchFile:
    """Read the dict in a ``.pth``, ``.pt``, ``.pth.tar`` (zip or legacy form), ``.safetensors`` or ``.pkl`` file.

    Tensors are on the CPU. The arrays of a ``.pkl`` (detectron2's files) become tensors. Objects of other classes
    than tensors and plain values are dropped by name.

    Raises:
        UserError: the file cannot be read, is damaged, or is no dict.
    """
    # Formats that hold arrays only need no unpickling by torch.
    if path.suffix == ".safetensors":
        from zoo.models.state_dict import read_tensors

        return TorchFile(dict(read_tensors(path)[0]), {})
    if path.suffix == ".pkl" and (arrays := _arrays(path)) is not None:
        return TorchFile(arrays, {})
    file = read_tree(path)
    # Every official checkpoint is a dict at its top.
    if not isinstance(file.content, dict):
        kind = next(iter(file.dropped.values()), type(file.content).__name__)
        raise UserError(
            f"{path.name} holds a {kind}, not a dict of tensors: save the network's state_dict() with torch.save"
        )
    return file


def load_torch(path: Path) -> Any:
    """Read a file of ``torch.save`` in the zip or the legacy form, on the CPU, after its claims were checked.

    Raises:
        UserError: the file cannot be read, is damaged, claims more than it holds, or holds more than tensors and plain
            values.
    """
    try:
        with path.open("rb") as file:
            check_claims(file)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the pickle's protocol
                # weights_only, so that a pickle cannot run code
                return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except MemoryError:
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise UserError(f"{path.name} is refused: {reason_of(error)}") from None
    except Exception as error:  # a hostile file can fail in any way
        raise UserError(f"{path.name} is refused: {type(error).__name__}: {reason_of(error)}") from None


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
    if not isinstance(tree, dict):
        return None
    try:
        return _as_tensors(tree, {})
    except TypeError as error:
        raise UserError(f"{path.name} is refused: {reason_of(error)}") from None


def _as_tensors(tree: dict[str, object], done: dict[int, dict[str, object]]) -> dict[str, object]:
    """Replace arrays by tensors of the same memory; dicts that the tree mentions twice, or in themselves, stay one."""
    if id(tree) in done:
        return done[id(tree)]
    tensors = done[id(tree)] = dict[str, object]()
    for key, value in tree.items():
        if isinstance(value, dict):
            tensors[key] = _as_tensors(value, done)
        else:
            tensors[key] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    return tensors
