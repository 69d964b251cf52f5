"""Write ``cmc_r14_free.*`` with the official code of CMC.

    git clone https://github.com/HobbitLong/CMC
    pip install torch torchvision scikit-image
    python tests/goldens/make_cmc.py --cmc CMC --out tests/goldens

Runs ``models/resnet.py``, ``NCE/NCEAverage.py``, ``NCE/NCECriterion.py`` and the Lab of ``dataset.py`` (7b227be) on a
CPU in float64, from parameters that are rounded to float32, in the order of ``train_CMC.py``, lines 206-230. Both
networks have a sixteenth of every width behind their stem of 64 and one block per stage; their fixed 7 x 7 average is a
global one, which is the same at 224 pixels. Pictures, and what is left out, are those of ``make_simsiam_mocov2.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import make_simsiam_mocov2 as shared
import numpy as np
import torch
from make_instdisc import recorded
from torch import Tensor, nn

STEPS, IMAGES, DIM = 3, 64, 16
MEAN = torch.tensor([(0 + 100) / 2, (-86.183 + 98.233) / 2, (-107.857 + 94.478) / 2], dtype=torch.float64)
STD = torch.tensor([(100 - 0) / 2, (86.183 + 98.233) / 2, (107.857 + 94.478) / 2], dtype=torch.float64)


def load(clone: Path) -> SimpleNamespace:
    sys.path.insert(0, str(clone))
    import models.resnet as resnet
    from dataset import RGB2Lab
    from NCE.NCEAverage import NCEAverage
    from NCE.NCECriterion import NCECriterion

    def resnet50(in_channel: int, width: float) -> nn.Module:
        network: nn.Module = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], DIM, in_channel, 1 / 16)
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        return network

    resnet.resnet50 = resnet50
    return SimpleNamespace(network=resnet.MyResNetsCMC, bank=NCEAverage, criterion=NCECriterion, lab=RGB2Lab())


def make_cmc(code: SimpleNamespace, out: Path) -> None:
    torch.manual_seed(0)
    hyper = {
        "method": "cmc",
        "blocks": [1, 1, 1, 1],
        "dim": DIM,
        "images": IMAGES,
        "negatives": 32,
        "temperature": 0.07,
        "memory_momentum": 0.5,
        "softmax": False,
        "learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch": shared.BATCH,
    }
    model = code.network("resnet50v1")
    shared.unlike_a_new_network(model)
    bank = code.bank(DIM, IMAGES, hyper["negatives"], hyper["temperature"], hyper["memory_momentum"])
    initial = {"memory_l": bank.memory_l.clone(), "memory_ab": bank.memory_ab.clone()}
    torch.save({"model": model.state_dict(), "contrast": initial, "epoch": 0}, f"{out}.init.pth")
    model.double()
    bank.double()
    bank.params[1] = hyper["temperature"]  # which the code rounds to float32
    criterion = code.criterion(IMAGES)

    def lab(array: np.ndarray) -> Tensor:
        """[B, H, W, 3] bytes of RGB -> normalised Lab [B, 3, H, W]."""
        pixels = torch.from_numpy(np.stack([code.lab(image) for image in array]))
        return ((pixels.double() - MEAN) / STD).movedim(-1, -3)

    view = shared.views(15)
    rows = np.stack([np.random.default_rng(step).permutation(IMAGES)[: shared.BATCH] for step in range(STEPS)])
    data = {"view": view, "index": rows, "eval_image": view[0, :3]}
    model.eval()
    with torch.no_grad():
        features = model(lab(view[0, :3]), 6)
        data["eval_embedding"] = torch.cat(features, 1).numpy()
        for name, projection in zip(("l", "ab"), model(lab(view[0, :3])), strict=True):
            data[f"eval_projection_{name}"] = projection.numpy()
    model.train()
    drawn = recorded(bank, rows)
    sgd = torch.optim.SGD(
        model.parameters(), hyper["learning_rate"], momentum=hyper["momentum"], weight_decay=hyper["weight_decay"]
    )
    found: dict[str, list[float]] = {name: [] for name in ("loss", "loss_l", "loss_ab", "Z_l", "Z_ab")}
    for step in range(STEPS):
        out_l, out_ab = bank(*model(lab(view[step])), torch.from_numpy(rows[step]))
        l_loss, ab_loss = criterion(out_l), criterion(out_ab)
        loss = l_loss + ab_loss
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        values = (loss, l_loss, ab_loss, bank.params[2], bank.params[3])
        for values_of, value in zip(found.values(), values, strict=True):
            values_of.append(value.item())
    data |= {name: np.array(values_of) for name, values_of in found.items()} | {"negatives": np.stack(drawn)}
    networks = model.encoder.module
    after = {
        "memory_l_after": bank.memory_l,
        "memory_ab_after": bank.memory_ab,
        "final_fc_weight_l": networks.l_to_ab.fc.weight,
        "final_fc_weight_ab": networks.ab_to_l.fc.weight,
    }
    shared.write(out, hyper, data | {name: tensor.detach().numpy() for name, tensor in after.items()})
    print("cmc", found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cmc", type=Path, required=True, help="clone of HobbitLong/CMC")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shared.STEPS = STEPS
    code = load(args.cmc)
    shared.one_process(lambda: make_cmc(code, args.out / "cmc_r14_free"))
