"""``zoo convert --to``: an encoder in the key names of torchvision, timm or detectron2, as one file.

The tensors keep their bytes; only keys change (``zoo.key_names``), and reading the file back with ``--from torch``
gives the same encoder.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.files import atomic_write_bytes, make_folder, sha256_file

if TYPE_CHECKING:
    from zoo.weights import WeightFile

TARGETS = ("torchvision", "timm", "detectron2")


@dataclass(frozen=True)
class Renamed:
    """A written file, and what its reader must know that keys cannot say."""

    path: Path
    sha256: str
    tensors: int
    notes: tuple[str, ...]


def rename(model: str | Path, to: str, out: Path) -> Renamed:
    """Writes the encoder of ``model`` to ``out``: ``.safetensors``, or ``.pth`` with nothing but tensors in it.

    Args:
        model: NAME, NAME.tag, a folder of ``zoo convert``, or a file of ``zoo-train export``.
        to: one of ``TARGETS``. A ``.pth`` for detectron2 is what its ``DetectionCheckpointer`` takes: the tensors
            under ``model``, and the request to match names by their ends.

    Raises:
        UserError: no such model, or another ending.
    """
    import torch
    from safetensors.torch import save

    from zoo import weights
    from zoo.key_names import to_torchvision, torchvision_to_detectron2

    if to not in TARGETS:
        raise UserError(f"--to {to}: one of {', '.join(TARGETS)}")
    if out.suffix not in (".safetensors", ".pth"):
        raise UserError(f"{out}: give --out a name that ends in .safetensors or .pth")
    file = weights.locate(model)
    if file.path is None:
        raise UserError(f"{file.name} has no weights to rename")
    state, _ = weights.read(file.path)
    weights.check_state(state, file.architecture, file.path.name)
    plain = to_torchvision(state)
    assert plain is not None  # check_state has seen its keys
    named = {"timm": state, "torchvision": plain, "detectron2": torchvision_to_detectron2(plain)}[to]
    if out.suffix == ".safetensors":
        data = save(named, metadata={"format": "pt", "licence": file.licence, "source": file.source})
    else:
        content: dict[str, Any] = named
        if to == "detectron2":
            content = {"model": named, "__author__": "siamese-zoo", "matching_heuristics": True}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
    make_folder(out.parent)
    atomic_write_bytes(out, data)
    return Renamed(out, sha256_file(out), len(named), tuple(_notes(file, to)))


def _notes(file: WeightFile, to: str) -> list[str]:
    architecture, transform = file.architecture, file.preprocessing
    notes = []
    if architecture.padding != "symmetric":
        notes.append(
            f"the padding is TensorFlow's ({architecture.padding}), which {to} does not have: "
            "with its own padding these weights lose several points; use zoo.load, torch.hub or ONNX"
        )
    if architecture.timm_name == "resnetv2_50" and to == "torchvision":
        args = architecture.model_args
        notes.append(
            f"names only: torchvision builds no ResNet of layers {args.get('layers', [3, 4, 6, 3])} "
            f"with every channel {args.get('width_factor', 1)} times"
        )
    if to == "timm":
        given = "".join(f", {k}={v!r}" for k, v in architecture.model_args.items())
        notes.append(f"timm.create_model('{architecture.timm_name}', num_classes=0{given})")
    if to == "detectron2":
        mean, std = ([round(255 * v, 3) for v in values] for values in (transform.mean, transform.std))
        notes.append(
            "pixels are RGB: INPUT.FORMAT 'RGB' (its default is BGR), "
            f"MODEL.PIXEL_MEAN {mean}, MODEL.PIXEL_STD {std}, MODEL.RESNETS.STRIDE_IN_1X1 False"
        )
    return notes
