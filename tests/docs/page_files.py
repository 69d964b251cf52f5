"""The files that a page's commands find in their folder, each made when the page names it.

``examples``, ``model_cards`` and ``benchmarks`` are copies of the repository's; ``siamese-zoo`` is a link to the
repository, as if it had been cloned there. The others are small and made here: see ``MADE``.
"""

from __future__ import annotations

import csv
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from doc_blocks import ROOT, Block
from PIL import Image

PHOTOS = ROOT / "examples" / "photos"
COPIED = ("examples", "model_cards", "benchmarks", "LICENSE")


def prepare(blocks: list[Block], folder: Path) -> None:
    """Puts into ``folder`` what the commands of ``blocks`` name, values of markers included."""
    text = "\n".join(block.with_values() for block in blocks if block.not_run is None)
    for name in COPIED:
        if _named(name, text):
            source = ROOT / name
            shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder)
    if _named("siamese-zoo", text):
        (folder / "siamese-zoo").symlink_to(ROOT)
    for name, make in MADE.items():
        if _named(name, text):
            make(folder / name)


def _named(name: str, text: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-])", text) is not None


def _labelled(folder: Path) -> None:
    """``train`` and ``test``, in each the classes ``animals`` and ``places``: crops of the example photographs."""
    places = ("castle", "mountain", "pagoda", "pyramid")
    animals = ("bird", "cat", "cow", "horses", "sheep")
    for path in sorted(PHOTOS.glob("*.jpg")):
        kind = path.name.partition("_")[0]
        label = "places" if kind in places else "animals" if kind in animals else None
        if label is None:
            continue
        with Image.open(path) as image:
            photo = image.convert("RGB")
        photo.thumbnail((120, 120))
        for number, split in enumerate(("train", "train", "test")):
            left, top = number * 10, number * 5
            crop = photo.crop((left, top, left + 64, top + 64)).resize((48, 48))
            target = folder / split / label / f"{path.stem}_{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            crop.save(target, quality=90)


def _my_images(folder: Path) -> None:
    """A flat folder without labels: the example photographs, their longer side 96 pixels."""
    folder.mkdir()
    for path in sorted(PHOTOS.glob("*.jpg")):
        with Image.open(path) as image:
            photo = image.convert("RGB")
        photo.thumbnail((96, 96))
        photo.save(folder / path.name, quality=90)


def _tar(path: Path) -> None:
    """The example photographs in a tar, each with its class (``.cls``) beside it."""
    import io

    with tarfile.open(path, "w") as tar:
        for number, photo in enumerate(sorted(PHOTOS.glob("*.jpg"))):
            tar.add(photo, photo.name)
            label = tarfile.TarInfo(f"{photo.stem}.cls")
            label.size = len(str(number % 3))
            tar.addfile(label, io.BytesIO(str(number % 3).encode()))


def _csv(path: Path) -> None:
    """``path,sku,price``: the example photographs by their place beside the list."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "sku", "price"))
        for number, photo in enumerate(sorted(PHOTOS.glob("*.jpg"))):
            rows.writerow((f"examples/photos/{photo.name}", f"SKU-{number:04d}", 10 + number))


def _deepmind(path: Path) -> None:
    """A BYOL checkpoint in DeepMind's layout: a narrow ResNet with its heads."""
    import torch
    from official_files import deepmind, narrow, network, vary
    from torch import nn

    online, target = network(narrow([1, 1, 1, 1]), 0), network(narrow([1, 1, 1, 1]), 1)

    def mlp(inputs: int) -> nn.Sequential:
        head = nn.Sequential(nn.Linear(inputs, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16, bias=False))
        vary(head)
        return head.eval()

    torch.manual_seed(2)
    deepmind(path, online.state, target.state, {"projector": mlp(256), "predictor": mlp(16)})


def _torch(path: Path) -> None:
    """A plain torch checkpoint with the encoder's keys under ``module.pre.``."""
    import torch
    from official_files import narrow, network, under

    torch.save({"state_dict": under(network(narrow([1, 1, 1, 1])).state, "module.pre.")}, path)


MADE: dict[str, Callable[[Path], None]] = {
    "labelled": _labelled,
    "my-images": _my_images,
    "photos.tar": _tar,
    "products.csv": _csv,
    "pretrain.pkl": _deepmind,
    "model.pth": _torch,
}
