"""JPEG decoders against Pillow: how fast on one thread, and whether the pixels are the same.

    pip install --no-deps --target DECODERS simplejpeg kornia-rs pyvips pyvips-binary cffi torchcodec \\
        opencv-python-headless
    PYTHONPATH=DECODERS python benchmarks/decoders.py --photos examples/photos --json benchmarks/results/decoders.json

Each photograph is decoded as it is, and enlarged to ``--megapixels`` as a camera's JPEG of quality 90. Every
decoder ends with the image of Pillow that is resized next; making it of an array is a part of its time. The decoders
take turns, round after round; the time of a file is its fastest round, and a rate is the sum of the files over the sum
of their times. ``equal`` is the share of files whose every byte is Pillow's. A decoder that is not installed is left
out by name. ``zoo extract`` could take another decoder only if all pixels were equal: results keep their bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update({"OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": "1"})
sys.path.insert(0, str(Path(__file__).parents[1]))

import cpu
import numpy as np
from decoding import enlarged
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Decode = Callable[[bytes], Pixels | Image.Image]


def pillow() -> Decode:
    def decode(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image

    return decode


def image_of(decoded: Pixels | Image.Image) -> Image.Image:
    """Return what the next step takes: an image of Pillow."""
    return decoded if isinstance(decoded, Image.Image) else Image.fromarray(np.ascontiguousarray(decoded))


def simplejpeg() -> Decode:
    import simplejpeg

    return lambda data: simplejpeg.decode_jpeg(data)


def opencv() -> Decode:
    import cv2

    cv2.setNumThreads(1)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def pyvips() -> Decode:
    import pyvips

    return lambda data: pyvips.Image.jpegload_buffer(data).numpy()


def kornia() -> Decode:
    from kornia_rs.io import decode_image_jpegturbo

    return lambda data: np.asarray(decode_image_jpegturbo(data, "rgb"))


def torchvision() -> Decode:
    import torch
    from torchvision.io import decode_jpeg

    torch.set_num_threads(1)
    return lambda data: decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()


def torchcodec() -> Decode:
    import torch
    from torchcodec.decoders import decode_jpeg

    return lambda data: decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()


DECODERS = (pillow, simplejpeg, opencv, pyvips, kornia, torchvision, torchcodec)


def measure(files: list[bytes], decoders: dict[str, Decode], rounds: int) -> dict[str, dict[str, float]]:
    """Return files a second, the ratio to Pillow, and how far the pixels are from Pillow's."""
    best = {name: [float("inf")] * len(files) for name in decoders}
    for _ in range(rounds):
        for number, data in enumerate(files):
            for name, decode in decoders.items():
                started = time.perf_counter()
                image_of(decode(data))
                best[name][number] = min(best[name][number], time.perf_counter() - started)
    found: dict[str, dict[str, float]] = {}
    for name, decode in decoders.items():
        differences = []
        for data in files:
            ours, theirs = (np.asarray(image_of(one(data))) for one in (decode, decoders["pillow"]))
            if ours.shape != theirs.shape:
                raise SystemExit(f"{name} gives {ours.shape}, Pillow {theirs.shape}")
            differences.append(np.abs(ours.astype(np.int16) - theirs))
        found[name] = {
            "files_per_second": round(len(files) / sum(best[name]), 2),
            "times_pillow": round(sum(best["pillow"]) / sum(best[name]), 3),
            "equal": round(sum(not one.any() for one in differences) / len(differences), 4),
            "most": int(max(one.max() for one in differences)),
            "mean": round(float(np.mean([one.mean() for one in differences])), 5),
        }
    return found


def main() -> None:
    """Measure both sizes of files, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG photographs")
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--every", type=int, default=4, help="enlarge every so many photographs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    decoders: dict[str, Decode] = {}
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for make in DECODERS:
        name = make.__name__
        try:
            decoders[name] = make()
        except (ImportError, OSError, RuntimeError) as error:
            missing[name] = str(error).splitlines()[0][:100]
            continue
        package = sys.modules[{"pillow": "PIL", "opencv": "cv2", "kornia": "kornia_rs"}.get(name, name)]
        versions[name] = str(package.__version__)
    # Some decoders turn a photograph upright by its tag, and some do not: leave those photographs out.
    photos = [path for path in sorted(args.photos.glob("*.jpg")) if Image.open(path).getexif().get(0x0112, 1) == 1]
    sizes = {
        "as they are": [path.read_bytes() for path in photos],
        f"{args.megapixels:g} megapixels": [enlarged(path, args.megapixels) for path in photos[:: args.every]],
    }
    found = {name: measure(files, decoders, args.rounds) for name, files in sizes.items()}
    content = {
        "machine": cpu.facts(),
        "versions": versions,
        "missing": missing,
        "files": {name: len(files) for name, files in sizes.items()},
        "sizes": found,
    }
    args.json.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(found, indent=1), missing)


if __name__ == "__main__":
    main()
