"""Write ``instdisc_r14_free.*`` with the official code of InstDisc.

    git clone https://github.com/zhirongw/lemniscate.pytorch
    pip install torch torchvision scikit-image
    python tests/goldens/make_instdisc.py --lemniscate lemniscate.pytorch --out tests/goldens

Runs ``lib/NCEAverage.py``, ``lib/NCECriterion.py`` and ``lib/normalize.py`` (f7cfe29) on a CPU in float64, from
parameters that are rounded to float32, in the order of ``main.py``, lines 205-230. The encoder is torchvision's, of
which the code's own ResNet is a copy with another initialisation; pictures, and what is left out, are those of
``make_simsiam_mocov2.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import make_simsiam_mocov2 as shared
import numpy as np
import torch
from torch import Tensor, nn

STEPS, IMAGES = 4, 64


def load(clone: Path) -> SimpleNamespace:
    """Import the code. ``gradient.data`` is a view of its own today, so resizing that would not resize the gradient."""
    sys.path.insert(0, str(clone))
    source = (clone / "lib" / "NCEAverage.py").read_text().replace("gradOutput.data", "gradOutput")
    bank = ModuleType("lib.NCEAverage")
    bank.__package__ = "lib"
    exec(compile(source, "NCEAverage.py", "exec"), vars(bank))
    from lib.NCECriterion import NCECriterion
    from lib.normalize import Normalize

    return SimpleNamespace(bank=bank.NCEAverage, criterion=NCECriterion, normalize=Normalize)


def recorded(bank: Any, rows: np.ndarray) -> list[np.ndarray]:
    """The rows of the bank that each step draws, [BATCH, K + 1]; the code overwrites the first by the image's own."""
    found: list[np.ndarray] = []
    draw = bank.multinomial.draw

    def drawn(count: int) -> Tensor:
        taken = draw(count)
        columns = taken.view(shared.BATCH, -1).numpy().copy()
        columns[:, 0] = rows[len(found)]
        found.append(columns)
        return taken

    bank.multinomial.draw = drawn
    return found


def make_instdisc(code: SimpleNamespace, out: Path) -> None:
    torch.manual_seed(0)
    hyper = {
        "method": "instdisc",
        "dim": 16,
        "images": IMAGES,
        "negatives": 32,
        "temperature": 0.07,
        "memory_momentum": 0.5,
        "learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch": shared.BATCH,
    }
    model = shared.NarrowResNet(num_classes=hyper["dim"])
    shared.unlike_a_new_network(model)
    torch.save({"epoch": 0, "arch": "resnet50", "state_dict": shared.state(model)}, f"{out}.init.pth.tar")
    model.double()
    bank = code.bank(hyper["dim"], IMAGES, hyper["negatives"], hyper["temperature"], hyper["memory_momentum"]).double()
    bank.params[1] = hyper["temperature"]  # which the code rounds to float32
    criterion, length = code.criterion(IMAGES), code.normalize(2)
    view = shared.views(14)
    rows = np.stack([np.random.default_rng(step).permutation(IMAGES)[: shared.BATCH] for step in range(STEPS)])
    data = {"view": view, "index": rows, "eval_image": view[0, :3], "memory0": bank.memory.numpy().copy()}
    model.eval()
    with torch.no_grad():
        head, model.fc = model.fc, nn.Identity()
        embedding = model(shared.normalised_bytes(view[0, :3]))
        model.fc = head
        data |= {"eval_embedding": embedding.numpy(), "eval_projection": length(head(embedding)).numpy()}
    model.train()
    drawn = recorded(bank, rows)
    sgd = torch.optim.SGD(
        model.parameters(), hyper["learning_rate"], momentum=hyper["momentum"], weight_decay=hyper["weight_decay"]
    )
    losses, constants = [], []
    for step in range(STEPS):
        feature = length(model(shared.normalised_bytes(view[step])))
        output = bank(feature, torch.from_numpy(rows[step]))
        loss = criterion(output, None)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
        constants.append(bank.params[2].item())
    data |= {"loss": np.array(losses), "Z": np.array(constants), "negatives": np.stack(drawn)}
    after = {
        "memory_after": bank.memory,
        "final_fc_weight": model.fc.weight,
        "final_conv1_weight": model.conv1.weight,
        "final_bn1_running_mean": model.bn1.running_mean,
    }
    shared.write(out, hyper, data | {name: tensor.detach().numpy() for name, tensor in after.items()})
    print("instdisc", losses, constants)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lemniscate", type=Path, required=True, help="clone of zhirongw/lemniscate.pytorch")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shared.STEPS = STEPS
    code = load(args.lemniscate)
    shared.one_process(lambda: make_instdisc(code, args.out / "instdisc_r14_free"))
