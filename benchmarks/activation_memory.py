"""Memory that an encoder keeps for its backward pass, per image and view at 224 pixels in bf16; computed, not run.

    python benchmarks/activation_memory.py

The second column is with ``Recipe.checkpoint_activations``. A method with two views keeps twice as much.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder

_IMAGES = 2


def mebibytes(architecture: str, recompute: bool) -> float:
    """Return the MiB of all tensors that autograd saves, without parameters; a shared storage counts once."""
    with torch.device("meta"):
        encoder = build_encoder(ARCHITECTURES[architecture]).train().bfloat16()
        if recompute:
            encoder.set_grad_checkpointing()  # type: ignore[operator]
        parameters = {p.untyped_storage()._cdata for p in encoder.parameters()}
        saved: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()._cdata
            if storage not in parameters:
                saved.setdefault(storage, tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            encoder(torch.empty(_IMAGES, 3, 224, 224, dtype=torch.bfloat16))
    return sum(t.untyped_storage().nbytes() for t in saved.values()) / _IMAGES / 2**20


if __name__ == "__main__":
    print("MiB per image and view    kept    recomputed")
    for name in ARCHITECTURES:
        print(f"{name:22} {mebibytes(name, False):7.1f} {mebibytes(name, True):13.1f}")
