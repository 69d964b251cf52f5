"""The folder of a converted model; a repository on a model hub holds the same files.

    model.safetensors   the encoder, in the key names of the timm architecture that config.json names
    heads.safetensors   projector, predictor, classifier, prototypes, where the official file has them
    config.json         see ``zoo.models.model_config``

A folder is written whole or not at all. Hashes, layouts, keys, shapes and values are checked before they are used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.models.config_reader import read_config
from zoo.models.model_config import CONFIG, HEADS, MODEL, ModelConfig
from zoo.system.atomic_files import atomic_write_bytes, atomic_write_text, create_folder_exclusively, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

FILES = (MODEL, HEADS, CONFIG)


def write(
    folder: Path,
    config: ModelConfig,
    encoder: Mapping[str, Tensor],
    heads: Mapping[str, Mapping[str, Tensor]] | None = None,
    *,
    half: bool = False,
) -> ModelConfig:
    """Write a converted model; ``folder`` must not exist yet, or be empty.

    Args:
        config: its ``heads`` and ``sha256`` are filled in here.
        encoder: state dict of the architecture, without ``num_batches_tracked``.
        heads: state dicts of ``nn.Sequential`` by part (``zoo.models.head_spec.PARTS``).
        half: store convolutions and linear layers in float16; BN stays float32.

    Returns:
        The config as written.

    Raises:
        UserError: the folder is in use, keys or shapes do not fit the architecture, values are not finite, or the
            disk is full. Nothing is left behind.
    """
    written = []

    def fill(temporary: Path) -> None:
        try:
            written.append(_fill(temporary, config, encoder, heads or {}, half=half))
        except UserError as error:  # which must not name a folder that is about to vanish
            raise UserError(str(error).replace(str(temporary), str(folder))) from None

    if not create_folder_exclusively(folder, fill):
        raise UserError(f"{folder} holds something already: choose another folder or remove it")
    return written[0]


def read(folder: Path) -> ModelConfig:
    """Read the config of a folder; the weight files must exist, but are not opened.

    Raises:
        UserError: the folder, a valid ``config.json`` or a weight file is missing.
    """
    config = read_config(folder / CONFIG)
    for file in config.sha256:
        if not (folder / file).is_file():
            raise UserError(f"{folder} lacks {file}: convert or fetch it again")
    return config


def verify(folder: Path) -> ModelConfig:
    """``read``, then compare the sha256 of every weight file with ``config.json``; no weight file is parsed.

    Raises:
        UserError: as ``read``, or a file has another hash.
    """
    config = read(folder)
    for file, expected in config.sha256.items():
        if sha256_file(folder / file) != expected:
            raise UserError(f"{folder / file} does not have the sha256 of config.json: convert or fetch it again")
    return config


def _fill(
    folder: Path,
    config: ModelConfig,
    encoder: Mapping[str, Tensor],
    heads: Mapping[str, Mapping[str, Tensor]],
    *,
    half: bool,
) -> ModelConfig:
    import torch
    from safetensors.torch import save

    from zoo.models.head_spec import build_head, read_layout
    from zoo.models.state_dict import check_state, check_tensors, half_of

    # weights
    check_state(encoder, config.architecture, config.full_name)
    layouts = {part: read_layout(state) for part, state in heads.items()}
    for part, state in heads.items():
        with torch.device("meta"):
            head = build_head(layouts[part])
        check_tensors(state, head, f"the {part} of {config.full_name}")
    # Inference does not read BN's counters, but without them transformers reports missing weights.
    counters = [k.removesuffix("running_var") + "num_batches_tracked" for k in encoder if k.endswith(".running_var")]
    files = {MODEL: dict(encoder) | {k: torch.zeros((), dtype=torch.int64) for k in counters}}
    if heads:
        files[HEADS] = {f"{part}.{key}": value for part, state in heads.items() for key, value in state.items()}
    for name, tensors in files.items():
        atomic_write_bytes(folder / name, save(half_of(tensors, half=half), metadata={"format": "pt"}))
    # config, read back once
    written = replace(
        config,
        heads=layouts,
        sha256={name: sha256_file(folder / name) for name in files},
    )
    atomic_write_text(folder / CONFIG, json.dumps(written.to_json(), indent=2) + "\n")
    if read(folder) != written:
        raise AssertionError("config.json does not read back as written")
    return written
