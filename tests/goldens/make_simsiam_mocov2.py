"""Write ``simsiam_r14_free.*``, ``mocov2_r14_free.*`` and ``mocov1_r14_free.*`` with the codes of SimSiam and MoCo.

    git clone https://github.com/facebookresearch/simsiam
    git clone https://github.com/facebookresearch/moco && git -C moco checkout 7397dfe
    pip install torch torchvision scikit-image
    python tests/goldens/make_simsiam_mocov2.py --simsiam simsiam --moco moco --out tests/goldens

Runs ``simsiam/builder.py`` (a7bc177) and ``moco/builder.py`` (7397dfe) on a CPU in float64, from parameters that are
rounded to float32. The optimiser and the loss are the lines of ``main_simsiam.py`` and ``main_moco.py``. The encoder is
torchvision's ResNet with every width divided by 8 and one block per stage. Two things are left out: CUDA, and more than
one process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import skimage.data
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

STEPS, BATCH, SIZE, WIDTH = 3, 8, 32, 8
MEAN = torch.tensor((0.485, 0.456, 0.406), dtype=torch.float64)[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225), dtype=torch.float64)[:, None, None]


class NarrowResNet(ResNet):
    """torchvision's ResNet with bottlenecks, one block per stage, and 1 / WIDTH of every width."""

    def __init__(self, num_classes: int, zero_init_residual: bool = False) -> None:
        super().__init__(Bottleneck, [1, 1, 1, 1], zero_init_residual=zero_init_residual)
        self.fc = nn.Linear(512 * Bottleneck.expansion // WIDTH, num_classes)

    @property
    def inplanes(self) -> int:
        return self._inplanes

    @inplanes.setter
    def inplanes(self, value: int) -> None:
        self._inplanes = value // WIDTH if value == 64 and not hasattr(self, "conv1") else value

    def _make_layer(self, block: type, planes: int, *args: object, **settings: object) -> nn.Sequential:
        return super()._make_layer(block, planes // WIDTH, *args, **settings)


def load_builder(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_builder", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def views(seed: int) -> np.ndarray:
    """[STEPS, BATCH, SIZE, SIZE, 3] uint8: crops of scikit-image's own pictures, every fourth pixel kept."""
    rng = np.random.default_rng(seed)
    pictures = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()]
    out = np.empty((STEPS, BATCH, SIZE, SIZE, 3), np.uint8)
    for step in range(STEPS):
        for n in range(BATCH):
            picture = pictures[n % len(pictures)]
            top, left = (int(rng.integers(side - 4 * SIZE)) for side in picture.shape[:2])
            out[step, n] = picture[top : top + 4 * SIZE : 4, left : left + 4 * SIZE : 4]
    return out


def normalised(array: np.ndarray) -> Tensor:
    """[B, H, W, 3] uint8 -> [B, 3, H, W] float64."""
    pixels = torch.from_numpy(array.astype(np.float32) / np.float32(255)).double()
    return (pixels.movedim(-1, -3) - MEAN) / STD


def normalised_bytes(array: np.ndarray) -> Tensor:
    """[.., H, W, 3] uint8 -> [.., 3, H, W] float64; ``normalised`` divides in float32 first."""
    return (torch.from_numpy(array).double().movedim(-1, -3) / 255 - MEAN) / STD


@torch.no_grad()
def unlike_a_new_network(model: nn.Module) -> None:
    """Give every BN another scale, shift and statistics than a new one's, so that a wrong mapping shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for buffer in (module.running_mean, module.running_var):
                buffer.add_(0.1 * torch.rand_like(buffer))
            if module.affine:
                module.weight.copy_(0.8 + 0.4 * torch.rand_like(module.weight))
                module.bias.normal_(std=0.1)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {f"module.{k}": v.detach().clone() for k, v in model.state_dict().items()}


def arrays(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) / np.float32(255)


def write(out: Path, hyper: dict[str, object], data: dict[str, np.ndarray]) -> None:
    out.with_suffix(".json").write_text(json.dumps(hyper, indent=1) + "\n")
    np.savez_compressed(out.with_suffix(".npz"), **data)


def make_simsiam(builder: ModuleType, out: Path) -> None:
    torch.manual_seed(0)
    hyper = {
        "method": "simsiam",
        "layers": [1, 1, 1, 1],
        "stem_width": 64 // WIDTH,
        "dim": 48,
        "pred_dim": 16,
        "predictor_learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": BATCH,
    }
    model = builder.SimSiam(NarrowResNet, hyper["dim"], hyper["pred_dim"])
    unlike_a_new_network(model)
    initial = state(model)
    torch.save({"epoch": 0, "arch": "resnet50", "state_dict": initial}, f"{out}.init.pth.tar")
    model.double().train()
    view1, view2 = views(1), views(2)

    # main_simsiam.py, lines 191-201, 279-309 and 359-368; each step is an epoch of the schedule
    criterion = nn.CosineSimilarity(dim=1)
    init_lr = hyper["predictor_learning_rate"]
    optim_params = [
        {"params": model.encoder.parameters(), "fix_lr": False},
        {"params": model.predictor.parameters(), "fix_lr": True},
    ]
    optimizer = torch.optim.SGD(optim_params, init_lr, momentum=hyper["momentum"], weight_decay=hyper["weight_decay"])
    losses, rates = [], []
    for epoch in range(STEPS):
        cur_lr = init_lr * 0.5 * (1.0 + math.cos(math.pi * epoch / STEPS))
        for param_group in optimizer.param_groups:
            param_group["lr"] = init_lr if param_group["fix_lr"] else cur_lr
        p1, p2, z1, z2 = model(x1=normalised(view1[epoch]), x2=normalised(view2[epoch]))
        loss = -(criterion(p1, z2).mean() + criterion(p2, z1).mean()) * 0.5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        rates.append(cur_lr)
    data = {"view1": arrays(view1), "view2": arrays(view2), "loss": np.array(losses)}
    write(out, hyper, data | {"encoder_learning_rate": np.array(rates)})
    print("simsiam", losses)


def make_moco(builder: ModuleType, out: Path, method: str, *, temperature: float, mlp: bool) -> None:
    torch.manual_seed(0)
    hyper = {
        "method": method,
        "layers": [1, 1, 1, 1],
        "stem_width": 64 // WIDTH,
        "dim": 32,
        "queue": 16,
        "key_momentum": 0.9,
        "temperature": temperature,
        "learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": BATCH,
    }
    settings = (hyper["dim"], hyper["queue"], hyper["key_momentum"], hyper["temperature"])
    model = builder.MoCo(NarrowResNet, *settings, mlp=mlp)
    unlike_a_new_network(model.encoder_q)
    # The builder makes the key encoder a copy of the query encoder.
    model.encoder_k.load_state_dict(model.encoder_q.state_dict())
    initial = state(model)
    for key in [k for k in initial if ".encoder_k." in k]:
        initial[key] = initial[key.replace(".encoder_k.", ".encoder_q.")]  # one storage: the file holds it once
    torch.save({"epoch": 0, "arch": "resnet50", "state_dict": initial}, f"{out}.init.pth.tar")
    model.double().train()
    view_query, view_key = views(3), views(4)

    # main_moco.py, lines 289-296 and 366-396
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(), hyper["learning_rate"], momentum=hyper["momentum"], weight_decay=hyper["weight_decay"]
    )
    losses = []
    for step in range(STEPS):
        output, target = model(im_q=normalised(view_query[step]), im_k=normalised(view_key[step]))
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    data = {"view_query": arrays(view_query), "view_key": arrays(view_key), "loss": np.array(losses)}
    after = {"queue_after": model.queue.numpy(), "queue_pointer": model.queue_ptr[0].numpy()}
    write(out, hyper, data | after)
    print(method, losses)


def one_process(make: Callable[[], None]) -> None:
    """Run ``make`` as the only rank, with tensors that stay on the CPU."""
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment,method-assign]
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        make()
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--simsiam", type=Path, required=True, help="clone of facebookresearch/simsiam")
    parser.add_argument("--moco", type=Path, required=True, help="clone of facebookresearch/moco at 7397dfe")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    make_simsiam(load_builder(args.simsiam / "simsiam" / "builder.py"), args.out / "simsiam_r14_free")
    moco = load_builder(args.moco / "moco" / "builder.py")
    one_process(lambda: make_moco(moco, args.out / "mocov2_r14_free", "mocov2", temperature=0.2, mlp=True))
    one_process(lambda: make_moco(moco, args.out / "mocov1_r14_free", "mocov1", temperature=0.07, mlp=False))
