"""Write ``infomin_r14_free.*`` and ``pirl_pycontrast_r14_free.*`` with PyContrast, the code of InfoMin's authors.

    git clone https://github.com/HobbitLong/PyContrast
    pip install torch torchvision scikit-image
    python tests/goldens/make_pycontrast.py --pycontrast PyContrast/pycontrast --out tests/goldens

Runs ``networks/build_backbone.py``, ``memory/mem_moco.py``, ``memory/mem_bank.py``, and the shuffle and the average of
``learning/contrast_trainer.py`` (84f94ea) on a CPU in float64, from parameters that are rounded to float32. The order
of a step is that of its ``_train_moco`` and ``_train_mem``, which themselves turn their inputs into float32. The
encoder is PyContrast's ResNet with an eighth of every width, but for the stem, and one block per stage. Pictures, and
what is left out, are those of ``make_simsiam_mocov2.py``.
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
from make_instdisc import recorded
from torch import Tensor, nn

PATCH, PATCHES, WIDTH, IMAGES = 20, 9, 1 / 8, 64


def load(folder: Path) -> SimpleNamespace:
    """Import the parts of PyContrast that need neither apex nor a logger of TensorBoard."""
    sys.path.insert(0, str(folder))
    for unused in ("apex", "apex.amp", "apex.parallel", "tensorboard_logger"):
        sys.modules[unused] = ModuleType(unused)
    sys.modules["apex"].amp = sys.modules["apex.amp"]  # type: ignore[attr-defined]
    import learning.contrast_trainer
    import memory.mem_bank
    import memory.mem_moco
    import networks.build_backbone
    import networks.resnet

    networks.build_backbone.model_dict["narrow"] = lambda width: networks.resnet.ResNet(
        networks.resnet.Bottleneck, [1, 1, 1, 1], width=width
    )
    network = networks.build_backbone.RGBMultiHeads
    network._parse_width = staticmethod(lambda name: (name, WIDTH))
    trainer = learning.contrast_trainer.ContrastTrainer
    queue, bank = memory.mem_moco.RGBMoCo, memory.mem_bank.RGBMem
    return SimpleNamespace(network=network, memory=queue, bank=bank, trainer=trainer)


def small_pictures(seed: int) -> np.ndarray:
    """[STEPS, BATCH, 9, PATCH, PATCH, 3] uint8."""
    before = shared.BATCH, shared.SIZE
    shared.BATCH, shared.SIZE = shared.BATCH * PATCHES, PATCH
    found = shared.views(seed)
    shared.BATCH, shared.SIZE = before
    return found.reshape(shared.STEPS, shared.BATCH, PATCHES, PATCH, PATCH, 3)


def recorded_orders(head: Any) -> list[np.ndarray]:
    """The orders of the patches that the jigsaw head draws, one array [BATCH, 9] for each call."""
    found: list[np.ndarray] = []
    draw = head.get_shuffle_ids

    def get_shuffle_ids(count: int) -> Tensor:
        ids = draw(count)
        found.append((ids.view(-1, PATCHES) % PATCHES).numpy())
        return ids

    head.get_shuffle_ids = get_shuffle_ids
    return found


def make_infomin(code: SimpleNamespace, out: Path) -> None:
    torch.manual_seed(0)
    hyper = {
        "method": "infomin",
        "dim": 16,
        "negatives": 20,
        "temperature": 0.15,
        "key_momentum": 0.9,
        "beta": 0.5,
        "learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch": shared.BATCH,
    }
    model, model_ema = (code.network("narrow", "mlp", hyper["dim"]) for _ in range(2))
    shared.unlike_a_new_network(model)
    model_ema.load_state_dict(model.state_dict())
    contrast = code.memory(hyper["dim"], hyper["negatives"], hyper["temperature"])
    initial = {k: v.detach().clone() for k, v in model.state_dict().items()}
    saved = {"model": {f"module.{k}": v for k, v in initial.items()}, "model_ema": initial}  # one storage
    torch.save(saved | {"contrast": {"memory": contrast.memory}, "optimizer": {}, "epoch": 0}, f"{out}.init.pth")
    for part in (model, model_ema, contrast):
        part.double()
    view, view_key, patches = shared.views(11), shared.views(12), small_pictures(13)
    model.eval()
    data = {"view": view, "view_key": view_key, "patches": patches, "eval_image": view[0, :3]}
    with torch.no_grad():
        embedding = model.encoder(shared.normalised_bytes(view[0, :3]))
        data |= {"eval_embedding": embedding.numpy(), "eval_projection": model.head(embedding).numpy()}
    trainer = code.trainer.__new__(code.trainer)
    trainer.args = SimpleNamespace(jigsaw=True, local_rank=0, node_rank=0, ngpus_per_node=1)
    trainer.local_group = None
    orders, shuffles = recorded_orders(model.head_jig), []
    sgd = torch.optim.SGD(
        model.parameters(), hyper["learning_rate"], momentum=hyper["momentum"], weight_decay=hyper["weight_decay"]
    )
    # contrast_trainer.py, _train_moco
    model.train()
    model_ema.eval()
    for module in model_ema.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    criterion = nn.CrossEntropyLoss()
    terms, losses = [], []
    for step in range(shared.STEPS):
        x1, x2, x_jig = (shared.normalised_bytes(array[step]) for array in (view, view_key, patches))
        state = torch.get_rng_state()
        shuffles.append(torch.randperm(shared.BATCH).numpy())
        torch.set_rng_state(state)  # the trainer draws the same
        k, all_k = trainer._shuffle_bn(x2, model_ema)
        q, q_jig = model(x1, x_jig.flatten(0, 1))
        output = contrast(q, k, q_jig, all_k)
        both = [criterion(logits, output[-1]) for logits in output[:-1]]
        loss = (1 - hyper["beta"]) * both[0] + hyper["beta"] * both[1]
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        trainer.momentum_update(model, model_ema, hyper["key_momentum"])
        terms.append([term.item() for term in both])
        losses.append(loss.item())
    data |= {"losses": np.array(terms), "loss": np.array(losses)}
    data["index"] = np.tile(
        np.arange(shared.BATCH), (shared.STEPS, 1)
    )  # of the images, of which a queue takes no notice
    data |= {"shuffle": np.array(shuffles), "permutations": np.array(orders)}
    after = {
        "memory_after": contrast.memory,
        "final_head_0_weight": model.head[0].weight[:4],
        "final_head_jig_fc2_weight": model.head_jig.fc2.weight[:4],
        "final_ema_head_0_weight": model_ema.head[0].weight[:4],
    }
    shared.write(out, hyper, data | {name: tensor.detach().numpy() for name, tensor in after.items()})
    print("infomin", losses)


def make_pirl(code: SimpleNamespace, out: Path) -> None:
    torch.manual_seed(0)
    hyper = {
        "method": "pirl_pycontrast",
        "head": "linear",
        "dim": 16,
        "images": IMAGES,
        "negatives": 32,
        "temperature": 0.07,
        "memory_momentum": 0.5,
        "beta": 0.5,
        "learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch": shared.BATCH,
    }
    model = code.network("narrow", "linear", hyper["dim"])
    shared.unlike_a_new_network(model)
    bank = code.bank(hyper["dim"], IMAGES, hyper["negatives"], hyper["temperature"], hyper["memory_momentum"])
    saved = {"model": shared.state(model), "contrast": {"memory": bank.memory.clone()}, "optimizer": {}, "epoch": 0}
    torch.save(saved, f"{out}.init.pth")
    model.double()
    bank.double()
    view, patches = shared.views(16), small_pictures(17)
    rows = np.stack([np.random.default_rng(step).permutation(IMAGES)[: shared.BATCH] for step in range(shared.STEPS)])
    data = {"view": view, "patches": patches, "index": rows, "eval_image": view[0, :3]}
    model.eval()
    with torch.no_grad():
        embedding = model.encoder(shared.normalised_bytes(view[0, :3]))
        data |= {"eval_embedding": embedding.numpy(), "eval_projection": model.head(embedding).numpy()}
    orders, drawn = recorded_orders(model.head_jig), recorded(bank, rows)
    sgd = torch.optim.SGD(
        model.parameters(), hyper["learning_rate"], momentum=hyper["momentum"], weight_decay=hyper["weight_decay"]
    )
    model.train()
    criterion = nn.CrossEntropyLoss()
    terms, losses = [], []
    for step in range(shared.STEPS):
        q, q_jig = model(shared.normalised_bytes(view[step]), shared.normalised_bytes(patches[step]).flatten(0, 1))
        output = bank(q, torch.from_numpy(rows[step]), q_jig)
        both = [criterion(logits, output[-1]) for logits in output[:-1]]
        loss = (1 - hyper["beta"]) * both[0] + hyper["beta"] * both[1]
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        terms.append([term.item() for term in both])
        losses.append(loss.item())
    data |= {"losses": np.array(terms), "loss": np.array(losses)}
    data |= {"permutations": np.array(orders), "negatives": np.stack(drawn)}
    after = {
        "memory_after": bank.memory,
        "final_head_0_weight": model.head[0].weight[:4],
        "final_head_jig_fc2_weight": model.head_jig.fc2.weight[:4],
    }
    shared.write(out, hyper, data | {name: tensor.detach().numpy() for name, tensor in after.items()})
    print("pirl", losses)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pycontrast", type=Path, required=True, help="folder pycontrast of HobbitLong/PyContrast")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    code = load(args.pycontrast)
    shared.one_process(lambda: make_infomin(code, args.out / "infomin_r14_free"))
    shared.one_process(lambda: make_pirl(code, args.out / "pirl_pycontrast_r14_free"))
