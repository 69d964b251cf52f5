"""facebookresearch/simsiam's checkpoints to timm's names; read with ``weights_only=True``, nothing in them is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.encoder import torchvision_to_resnetv2
from zoo.errors import UserError
from zoo.registry import Architecture


@dataclass(frozen=True)
class SimSiamCheckpoint:
    """An official SimSiam file: state dicts in the names of ``resnetv2_50(preact=False)`` and of ``zoo.heads``."""

    architecture: Architecture
    encoder: dict[str, Tensor]
    projector: dict[str, Tensor]
    predictor: dict[str, Tensor]


def read(path: Path) -> SimSiamCheckpoint:
    """Reads a ``.pth.tar`` of the official code, of any depth and width of bottleneck ResNets.

    Raises:
        UserError: unreadable, holds more than tensors, or is no SimSiam checkpoint.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        state = {k.removeprefix("module."): v for k, v in loaded["state_dict"].items()}
        encoder, projector, predictor = (
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            for prefix in ("encoder.", "encoder.fc.", "predictor.")
        )
        encoder = {k: v for k, v in encoder.items() if not k.startswith("fc.")}
        return SimSiamCheckpoint(_architecture(encoder), torchvision_to_resnetv2(encoder), projector, predictor)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise UserError(f"{path.name} is refused: {str(error).splitlines()[0]}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path.name} is no SimSiam checkpoint of the official code ({error!r})") from None


def _architecture(encoder: dict[str, Tensor]) -> Architecture:
    blocks = {(int(m[1]), int(m[2])) for m in map(re.compile(r"layer(\d)\.(\d+)\.").match, encoder) if m}
    layers = [sum(1 for g, _ in blocks if g == stage) for stage in range(1, 5)]
    width = encoder["conv1.weight"].shape[0] / 64  # the stem of the 1x network is 64 wide
    parameters = sum(v.numel() for k, v in encoder.items() if "running" not in k and "num_batches" not in k)
    args = {"preact": False, "layers": layers, "width_factor": width}
    return Architecture("resnetv2_50", int(2048 * width), parameters, args)
