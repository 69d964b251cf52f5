"""Write ``densecl_r14_free.*`` with the official code of DenseCL.

    git clone https://github.com/WXinlong/DenseCL
    pip install torch torchvision scikit-image
    python tests/goldens/make_densecl.py --densecl DenseCL --out tests/goldens

Runs ``openselfsup/models/densecl.py`` with its neck and its head (b64bbb6) on a CPU in float64, from parameters that
are rounded to float32. Its registry and its initialisation come from mmcv, which is not needed for that: small
stand-ins take their place. The backbone, the pictures and what is left out are those of ``make_simsiam_mocov2.py``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import make_simsiam_mocov2 as shared
import numpy as np
import torch
from torch import Tensor, nn

STEPS, BATCH, SIZE = 4, 4, 64


class Registry(dict[str, Any]):
    """Classes by their names, as mmcv has them."""

    def __init__(self, name: str) -> None:
        super().__init__()

    def register_module(self, cls: type) -> type:
        self[cls.__name__] = cls
        return cls


def build_from_cfg(config: dict[str, Any], registry: Registry, default_args: None) -> nn.Module:
    built: nn.Module = registry[config["type"]](**{key: value for key, value in config.items() if key != "type"})
    return built


class Backbone(shared.NarrowResNet):
    """The narrow ResNet as openselfsup has backbones: it returns a list of maps."""

    def __init__(self) -> None:
        super().__init__(num_classes=1)
        del self.fc

    def init_weights(self, pretrained: None) -> None:
        """The weights are already drawn."""

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return [self.layer4(self.layer3(self.layer2(self.layer1(x))))]


def import_model(clone: Path) -> ModuleType:
    """Import ``models/densecl.py``, its neck and its head without the rest of the package, which needs mmcv."""
    for name, folder in (
        ("openselfsup", "openselfsup"),
        ("openselfsup.models", "openselfsup/models"),
        ("openselfsup.models.heads", "openselfsup/models/heads"),
    ):
        package = ModuleType(name)
        package.__path__ = [str(clone / folder)]
        sys.modules[name] = package
    nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    stand_ins: dict[str, dict[str, object]] = {
        "openselfsup.utils": {"Registry": Registry, "build_from_cfg": build_from_cfg, "print_log": nothing},
        "openselfsup.models.utils": {"build_norm_layer": nothing},
        "mmcv": {},
        "mmcv.cnn": {"kaiming_init": nothing, "normal_init": nothing},
    }
    for name, members in stand_ins.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    registry = importlib.import_module("openselfsup.models.registry")
    registry.BACKBONES["Backbone"] = Backbone
    importlib.import_module("openselfsup.models.necks")
    importlib.import_module("openselfsup.models.heads.contrastive_head")
    return importlib.import_module("openselfsup.models.densecl")


def make_densecl(code: ModuleType, out: Path) -> None:
    torch.manual_seed(0)
    hyper = {
        "method": "densecl",
        "layers": [1, 1, 1, 1],
        "stem_width": 64 // shared.WIDTH,
        "dim": 16,
        "queue": 12,
        "key_momentum": 0.9,
        "temperature": 0.2,
        "loss_lambda": 0.3,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": BATCH,
    }
    width = 2048 // shared.WIDTH
    neck = {"type": "DenseCLNeck", "in_channels": width, "hid_channels": width, "out_channels": hyper["dim"]}
    model = code.DenseCL(
        {"type": "Backbone"},
        neck,
        {"type": "ContrastiveHead", "temperature": hyper["temperature"]},
        queue_len=hyper["queue"],
        feat_dim=hyper["dim"],
        momentum=hyper["key_momentum"],
        loss_lambda=hyper["loss_lambda"],
    )
    shared.unlike_a_new_network(model.encoder_q)
    # The code makes the key encoder's parameters a copy; equal statistics keep the file small.
    model.encoder_k.load_state_dict(model.encoder_q.state_dict())
    initial = shared.state(model)
    initial = {k.removeprefix("module."): v for k, v in initial.items() if not k.startswith("module.backbone.")}
    for key in [k for k in initial if k.startswith("encoder_k.")]:
        initial[key] = initial[key.replace("encoder_k.", "encoder_q.")]  # one storage: the file holds it once
    torch.save({"meta": {}, "state_dict": initial}, f"{out}.init.pth")
    model.double().train()
    view_query, view_key = shared.views(7), shared.views(8)

    # tools/train.py sums the losses; configs/selfsup/densecl: SGD
    trained = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(
        trained, hyper["learning_rate"], momentum=hyper["momentum"], weight_decay=hyper["weight_decay"]
    )
    single, dense = [], []
    for step in range(STEPS):
        losses = model(
            torch.stack([shared.normalised_bytes(view_query[step]), shared.normalised_bytes(view_key[step])], 1)
        )
        sgd.zero_grad()
        sum(losses.values()).backward()
        sgd.step()
        single.append(losses["loss_contra_single"].item())
        dense.append(losses["loss_contra_dense"].item())
    data = {"view_query": view_query, "view_key": view_key, "loss": np.array(single), "loss_dense": np.array(dense)}
    after = {
        "queue_after": model.queue,
        "queue_dense_after": model.queue2,
        "final_key_dense": model.encoder_k[1].mlp2[2].weight,
        "final_stem": model.encoder_q[0].conv1.weight,
    }
    data |= {name: tensor.detach().numpy() for name, tensor in after.items()}
    shared.write(out, hyper, data | {"queue_pointer": model.queue_ptr[0].numpy()})
    print("densecl", single, dense)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--densecl", type=Path, required=True, help="clone of WXinlong/DenseCL at b64bbb6")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shared.STEPS, shared.BATCH, shared.SIZE = STEPS, BATCH, SIZE
    code = import_model(args.densecl)
    shared.one_process(lambda: make_densecl(code, args.out / "densecl_r14_free"))
