"""How fast is extraction: against a plain timm + DataLoader script, and against the forward pass alone.

    python benchmarks/extraction.py --photos examples/photos --images 768 --json extraction.json

The three take turns, round after round, in one process on one machine: ``zoo`` is ``zoo.extraction.extract`` from
files to committed shards; ``timm`` is the usual script, in every combination of workers, batch size and memory
format, of which the fastest counts; ``limit`` is the network on pixels that lie ready. Same network, precision and
pixels for all, checked by the cosine of the embeddings.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset

from zoo.api import load
from zoo.embed import Embedder
from zoo.extraction import extract
from zoo.registry import DEFAULT_MODEL

SAME = 0.9999  # least cosine between the embeddings of two contenders


class Photos(Dataset[torch.Tensor]):
    """What a script would have: path -> normalised float32 [3, H, W]."""

    def __init__(self, paths: list[Path], embedder: Embedder) -> None:
        p = embedder.preprocessing
        self._paths = paths
        self._transform = create_transform(
            p.input_size,
            is_training=False,
            interpolation=p.interpolation,
            mean=p.mean,
            std=p.std,
            crop_pct=p.input_size / p.resize,
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        tensor: torch.Tensor = self._transform(ImageOps.exif_transpose(Image.open(self._paths[index])).convert("RGB"))
        return tensor


def plain_timm(
    paths: list[Path], embedder: Embedder, out: Path, *, workers: int, batch_size: int, channels_last: bool
) -> NDArray[np.float32]:
    """The usual script: DataLoader, network, one file of embeddings at the end."""
    device = embedder.engine.device
    bf16 = embedder.identity()["precision"] == "bf16"
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = embedder.model.to(memory_format=memory_format)
    loader = DataLoader(Photos(paths, embedder), batch_size, num_workers=workers, pin_memory=device != "cpu")
    embeddings = []
    with torch.inference_mode(), torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=bf16):
        for batch in loader:
            x = batch.to(device, non_blocking=True, memory_format=memory_format)
            embeddings.append(model(x).float().cpu().numpy())
    result: NDArray[np.float32] = np.concatenate(embeddings)
    np.save(out, result)
    embedder.model.to(memory_format=torch.channels_last)
    return result


def zoo(folder: Path, embedder: Embedder, out: Path, *, batch_size: int) -> NDArray[np.float32]:
    """From files to committed shards with a manifest."""
    extract(folder, out, embedder=embedder, batch_size=batch_size)
    shards = sorted(out.glob("embeddings-*.parquet"))
    return np.concatenate([np.stack(pq.read_table(shard)["embedding"].to_numpy()) for shard in shards])


def limit(pixels: NDArray[np.uint8], embedder: Embedder, _: Path, *, batch_size: int) -> NDArray[np.float32]:
    """The network and nothing else; nothing is written."""
    starts = range(0, len(pixels), batch_size)
    return np.concatenate([embedder.embed_pixels(pixels[start : start + batch_size]) for start in starts])


def copies(photos: Path, n: int, folder: Path) -> list[Path]:
    """``n`` files in ``folder``, the JPEGs of ``photos`` over and over, in the order of their names.

    JPEGs only: the plain script clips 16-bit images and lays transparency over black.
    """
    sources = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    paths = [folder / f"{i:06d}{sources[i % len(sources)].suffix}" for i in range(n)]
    for i, path in enumerate(paths):
        shutil.copyfile(sources[i % len(sources)], path)
    return paths


def least_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Over the rows of two matrices."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Images per second of every contender in every round."""
    embedder = load(args.model, device=args.device, precision=args.precision)
    images = scratch / "images"
    images.mkdir()
    paths = copies(args.photos, args.images, images)
    pixels = np.stack([embedder.pixels(path) for path in paths])

    contenders: dict[str, Callable[[Path], NDArray[np.float32]]] = {}
    for size in args.batch_sizes:
        contenders[f"limit batch {size}"] = partial(limit, pixels, embedder, batch_size=size)
        contenders[f"zoo batch {size}"] = partial(zoo, images, embedder, batch_size=size)
    for workers, size, last in itertools.product(args.workers, args.batch_sizes, (False, True)):
        name = f"timm workers {workers} batch {size} {'channels_last' if last else 'contiguous'}"
        contenders[name] = partial(plain_timm, paths, embedder, workers=workers, batch_size=size, channels_last=last)

    reference = limit(pixels, embedder, scratch, batch_size=args.batch_sizes[0])
    cosines: dict[str, float] = {}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(args.rounds):
        for name, contender in contenders.items():
            out = scratch / f"{number} {name}"
            start = time.perf_counter()
            embeddings = contender(out)
            rates[name].append(len(paths) / (time.perf_counter() - start))
            cosines[name] = least_cosine(embeddings, reference)
            print(f"round {number + 1}, {name}: {rates[name][-1]:.1f} images/s", flush=True)
    if (worst := min(cosines, key=lambda name: cosines[name])) and cosines[worst] < SAME:
        raise SystemExit(f"{worst} gives other embeddings: cosine {cosines[worst]}")
    return {"identity": embedder.identity(), "rates": rates, "least_cosine": cosines[worst]}


def summary(measured: dict[str, Any]) -> dict[str, Any]:
    """The best contender of each kind by its median rate, and the ratios between them."""
    medians = {name: statistics.median(rates) for name, rates in measured["rates"].items()}
    best = {
        kind: max((name for name in medians if name.startswith(kind)), key=lambda name: medians[name])
        for kind in ("zoo", "timm", "limit")
    }
    return {
        "best": {kind: {"setting": name, "images_per_second": round(medians[name], 2)} for kind, name in best.items()},
        "zoo_over_timm": round(medians[best["zoo"]] / medians[best["timm"]], 3),
        "zoo_over_limit": round(medians[best["zoo"]] / medians[best["limit"]], 3),
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, used over and over")
    parser.add_argument("--images", type=int, default=768, help="how many files to embed")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="as for `zoo extract`; byol_r50.random needs no weights")
    parser.add_argument("--device", default=None)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4], help="of the DataLoader")
    parser.add_argument("--json", type=Path, default=None, help="where to write the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(args, Path(scratch))
    result = {
        **summary(measured),
        "images": args.images,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        **measured,
    }
    print(json.dumps({key: result[key] for key in ("best", "zoo_over_timm", "zoo_over_limit")}, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
