"""From a training checkpoint to the zoo: the encoder alone, as safetensors that ``zoo.load`` reads."""

from __future__ import annotations

import json
from pathlib import Path

from training import checkpoint
from training.build import build_method
from training.config import from_json
from zoo.encoder import encoder_state
from zoo.errors import UserError
from zoo.preprocess import Preprocessing
from zoo.weights import save_encoder


def export(
    source: Path, out: Path, *, input_size: int | None = None, resize: int | None = None, half: bool = False
) -> str:
    """Writes the online encoder of a checkpoint (or of a run's last one) to ``out``; returns its sha256.

    Args:
        source: ``checkpoint-*.pt``, or the folder of a run.
        input_size, resize: the preprocessing that goes with the weights, pixels; default: the size of the training
            views, and input_size / .875 (the papers' centre crop).
        half: convolutions in float16.

    Raises:
        UserError: no checkpoint there, or ``out`` cannot be written.
    """
    state = checkpoint.load_last(source) if source.is_dir() else checkpoint.read(source)
    if state is None:
        raise UserError(f"{source} holds no checkpoint")
    recipe = from_json(state["recipe"])
    method = build_method(recipe)
    method.load_state_dict(state["method"])
    size = input_size or recipe.views.size
    metadata = {
        "architecture": recipe.architecture,
        "method": recipe.method,
        "preprocessing": Preprocessing(size, resize or round(size / 0.875)).to_json(),
        "licence": "Apache-2.0",
        "recipe": json.dumps(state["recipe"], sort_keys=True),
        "data": json.dumps(state["data"], sort_keys=True),
        "step": str(state["step"]),
        "total_steps": str(state["total_steps"]),
    }
    return save_encoder(out, encoder_state(method.encoder), metadata, half=half)
