"""Write ``mocov3_r14_free.*`` with the official code of MoCo v3.

    git clone https://github.com/facebookresearch/moco-v3
    pip install torch torchvision scikit-image
    python tests/goldens/make_mocov3.py --moco-v3 moco-v3 --out tests/goldens

Runs ``moco/builder.py``, ``moco/optimizer.py`` and both schedules of ``main_moco.py`` (c349e6e) on a CPU in float64,
from parameters that are rounded to float32. The encoder, its pictures and what is left out are those of
``make_simsiam_mocov2.py``.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import make_simsiam_mocov2 as shared
import numpy as np
import torch

STEPS, STEPS_OF_AN_EPOCH = 5, 2


def make_mocov3(builder: ModuleType, optimizer: ModuleType, main: ModuleType, out: Path) -> None:
    torch.manual_seed(0)
    hyper = {
        "method": "mocov3",
        "layers": [1, 1, 1, 1],
        "stem_width": 64 // shared.WIDTH,
        "dim": 16,
        "mlp_dim": 32,
        "temperature": 0.7,
        "base_learning_rate": 3.0,  # large, for the steps are few: a wrong gradient shows in the next loss
        "momentum": 0.9,
        "weight_decay": 1e-2,
        "moco_m": 0.9,
        "epochs": 4,
        "warmup_epochs": 1,
        "steps_of_an_epoch": STEPS_OF_AN_EPOCH,
        "batch_size": shared.BATCH,
    }
    network = partial(shared.NarrowResNet, zero_init_residual=True)
    model = builder.MoCo_ResNet(network, hyper["dim"], hyper["mlp_dim"], hyper["temperature"])
    shared.unlike_a_new_network(model.base_encoder)
    shared.unlike_a_new_network(model.predictor)
    # The builder makes the momentum encoder's parameters a copy; equal statistics keep the file small.
    model.momentum_encoder.load_state_dict(model.base_encoder.state_dict())
    initial = shared.state(model)
    for key in [k for k in initial if ".momentum_encoder." in k]:
        initial[key] = initial[key.replace(".momentum_encoder.", ".base_encoder.")]  # one storage
    torch.save({"epoch": 0, "arch": "resnet50", "state_dict": initial}, f"{out}.init.pth.tar")
    model.double().train()
    view1, view2 = shared.views(5), shared.views(6)

    # main_moco.py, lines 180-181, 207-210 and 307-342
    args = SimpleNamespace(
        lr=hyper["base_learning_rate"] * hyper["batch_size"] / 256,
        epochs=hyper["epochs"],
        warmup_epochs=hyper["warmup_epochs"],
        moco_m=hyper["moco_m"],
    )
    lars = optimizer.LARS(model.parameters(), args.lr, weight_decay=hyper["weight_decay"], momentum=hyper["momentum"])
    losses, rates, momenta = [], [], []
    for step in range(STEPS):
        epoch = step / STEPS_OF_AN_EPOCH
        rates.append(main.adjust_learning_rate(lars, epoch, args))
        momenta.append(main.adjust_moco_momentum(epoch, args))
        loss = model(shared.normalised_bytes(view1[step]), shared.normalised_bytes(view2[step]), momenta[-1])
        lars.zero_grad()
        loss.backward()
        lars.step()
        losses.append(loss.item())
    data = {"view1": view1, "view2": view2, "loss": np.array(losses)}
    data |= {"learning_rate": np.array(rates), "moco_m": np.array(momenta)}
    after = {
        "projector": model.base_encoder.fc[3].weight,
        "predictor": model.predictor[3].weight,
        "key_projector": model.momentum_encoder.fc[3].weight,
        "stem": model.base_encoder.conv1.weight,
    }
    data |= {f"final_{name}": weight.detach().numpy() for name, weight in after.items()}
    shared.write(out, hyper, data)
    print("mocov3", losses)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--moco-v3", type=Path, required=True, help="clone of facebookresearch/moco-v3 at c349e6e")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shared.STEPS = STEPS
    sys.path.insert(0, str(args.moco_v3))
    for unused in ("vits", "torch.utils.tensorboard"):  # main_moco.py imports them for ViTs and for its log
        sys.modules[unused] = ModuleType(unused)
    sys.modules["torch.utils.tensorboard"].SummaryWriter = None  # type: ignore[attr-defined]
    import main_moco
    import moco.builder
    import moco.optimizer

    out = args.out / "mocov3_r14_free"
    shared.one_process(lambda: make_mocov3(moco.builder, moco.optimizer, main_moco, out))
