"""Memory that an encoder keeps for its backward pass, per image and view at 224 pixels in bf16; computed, not run.

    python benchmarks/activation_memory.py --json benchmarks/results/activation_memory.json

The second column is with ``Recipe.checkpoint_activations``. A method with two views keeps twice as much.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    out = parser.parse_args().json
    rows = []
    print("MiB per image and view    kept    recomputed")
    for name in ARCHITECTURES:
        kept, recomputed = (round(mebibytes(name, recompute), 3) for recompute in (False, True))
        rows.append({"encoder": name, "kept_mib": kept, "recomputed_mib": recomputed})
        print(f"{name:22} {kept:7.1f} {recomputed:13.1f}", flush=True)
    if out is not None:
        command = f"benchmarks/activation_memory.py --json {out}"
        out.write_text(json.dumps({"command": command, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
