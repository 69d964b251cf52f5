"""``zoo convert --to``: write an encoder with the key names of torchvision, timm or detectron2, as one file.

The tensors keep their bytes, only the keys change (``zoo.models.key_mapping``). Converting the file back with
``--from torch`` gives the same encoder.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.system.atomic_files import atomic_write_bytes, make_folder, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.hub.weights import WeightFile

SAFETENSORS = ".safetensors"
OWN_ENDING = {"torchvision": ".pth", "timm": ".pth", "detectron2": ".pkl"}  # the format that each library reads


@dataclass(frozen=True)
class Renamed:
    """A written file.

    Attributes:
        tensors: number of tensors.
        notes: facts that the keys cannot express, such as padding and pixel order, one line each.
    """

    path: Path
    sha256: str
    tensors: int
    notes: tuple[str, ...]


def rename(model: str | Path, to: str, out: Path) -> Renamed:
    """Write the encoder of ``model`` to ``out``: a ``.safetensors`` file, or the format that the other library reads.

    Args:
        model: NAME, NAME.tag, a folder of ``zoo convert``, or a file of ``zoo-train export``.
        to: a key of ``OWN_ENDING``. A ``.pth`` holds nothing but tensors. A ``.pkl`` is made for detectron2's
            ``DetectionCheckpointer``: arrays under ``model``, and ``matching_heuristics``.

    Raises:
        UserError: there is no such model, it is a network of split colours, or ``out`` has another ending.
    """
    from zoo.hub.weights import locate
    from zoo.models.key_mapping import to_torchvision, torchvision_to_detectron2
    from zoo.models.state_dict import check_state, read_tensors, to_safetensors

    # Refuse wrong options before the weights are read.
    if to not in OWN_ENDING:
        raise UserError(f"--to {to}: one of {', '.join(OWN_ENDING)}")
    if out.suffix not in (SAFETENSORS, OWN_ENDING[to]):
        raise UserError(f"{out}: give --out a name that ends in {SAFETENSORS} or {OWN_ENDING[to]}")
    # Read the weights and compare them with the architecture.
    file = locate(model)
    if file.path is None:
        raise UserError(f"{file.name} has no weights to rename")
    if file.architecture.colours:
        raise UserError(
            f"{file.name} is two networks of split colours, which {to} has no names for: use zoo.load or ONNX"
        )
    state, _ = read_tensors(file.path)
    check_state(state, file.architecture, file.path.name)
    # Other networks than ResNets have timm's names alone; ResNets go through torchvision's.
    if to != "timm" and (not file.architecture.is_resnet or file.architecture.timm_name == "resnetv2_18"):
        network = file.architecture.timm_name
        raise UserError(f"{file.name} is timm's {network}, which {to} does not have: give --to timm")
    plain = to_torchvision(state) if to != "timm" else state
    assert plain is not None  # check_state has seen its keys
    named = torchvision_to_detectron2(plain) if to == "detectron2" else plain
    # Serialise in memory, so that no half-written file appears.
    if out.suffix == SAFETENSORS:
        data = to_safetensors(named, {"format": "pt", "licence": file.licence, "source": file.source})
    else:
        data = _pickled(named) if to == "detectron2" else _saved(named)
    make_folder(out.parent)
    atomic_write_bytes(out, data)
    return Renamed(out, sha256_file(out), len(named), tuple(_notes(file, to)))


def _saved(state: Mapping[str, Tensor]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _pickled(state: Mapping[str, Tensor]) -> bytes:
    """Pickle as MoCo's ``detection/convert-pretrain-to-detectron2.py`` does, readable with any NumPy."""
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    content = {"model": arrays, "__author__": "siamese-zoo", "matching_heuristics": True}
    # NumPy 2 writes the new name of its constructor's module, which NumPy before 1.26 lacks; both know the old name. In
    # this protocol it is text, and occurs once, before the first array's bytes.
    data = pickle.dumps(content, protocol=3)
    return data.replace(b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\n_reconstruct\n", 1)


def _notes(file: WeightFile, to: str) -> list[str]:
    architecture, transform = file.architecture, file.preprocessing
    notes = []
    # What the target library cannot express.
    if architecture.padding != "symmetric":
        notes.append(
            f"the padding is TensorFlow's ({architecture.padding}), which {to} does not have: "
            "with its own padding these weights lose several points; use zoo.load, torch.hub or ONNX"
        )
    if architecture.project_first:
        notes.append(f"names only: {to} builds no projection in the first block; use zoo.load, torch.hub or ONNX")
    if architecture.stem == "cifar":
        notes.append(f"names only: {to} builds a 7x7 stem with a max-pool, this network's is 3x3 without one")
    if architecture.timm_name == "resnetv2_50" and to == "torchvision":
        args = architecture.model_args
        notes.append(
            f"names only: torchvision builds no ResNet of layers {args.get('layers', [3, 4, 6, 3])} "
            f"with every channel {args.get('width_factor', 1)} times"
        )
    elif to == "torchvision" and (shape := {k: v for k, v in architecture.model_args.items() if k != "stem_width"}):
        notes.append(f"names only: torchvision has no {architecture.timm_name} with {shape}")
    if (stem := architecture.model_args.get("stem_width")) is not None:
        notes.append(f"names only: {to} builds a stem of 64 channels, this network's has {stem}")
    # How the file is loaded there.
    if to == "timm":
        given = "".join(f", {k}={v!r}" for k, v in architecture.model_args.items() if k != "stem_width")
        notes.append(f"timm.create_model('{architecture.timm_name}', num_classes=0{given})")
    if to == "detectron2":
        mean, std = ([round(255 * v, 3) for v in values] for values in (transform.mean, transform.std))
        notes.append(
            "pixels are RGB: INPUT.FORMAT 'RGB' (its default is BGR), "
            f"MODEL.PIXEL_MEAN {mean}, MODEL.PIXEL_STD {std}, MODEL.RESNETS.STRIDE_IN_1X1 False"
        )
    return notes
