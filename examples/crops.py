"""Make a folder of look-alikes: square crops of photographs, half of them mirrored, brighter or darker.

    python examples/crops.py --images examples/photos --out crops

Each photograph gives eight PHOTO-N.jpg. The same seed gives the same pixels: a small collection in which it is known
what is alike, made of photographs whose licences allow it (`examples/photos/LICENSES.md`).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

CROPS, AREA, LIGHT, SIDE = 8, (0.35, 0.8), (0.75, 1.25), 224  # of a photograph; shares of the square; pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--images", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    draws = np.random.default_rng(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(p for p in arguments.images.iterdir() if p.suffix in (".jpg", ".jpeg", ".png")):
        with Image.open(path) as image:
            photo = ImageOps.exif_transpose(image)
            if photo.mode.startswith("I"):  # 16-bit gray
                photo = Image.fromarray((np.asarray(photo, np.float32) / 257).astype(np.uint8))
            photo = photo.convert("RGB")
        for n in range(CROPS):
            crop(photo, draws).save(arguments.out / f"{path.stem}-{n}.jpg", quality=90)
    print(arguments.out)


def crop(photo: Image.Image, draws: np.random.Generator) -> Image.Image:
    side = round(min(photo.size) * draws.uniform(*AREA) ** 0.5)
    left, top = (int(draws.integers(0, length - side + 1)) for length in photo.size)
    found = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    found = ImageOps.mirror(found) if draws.random() < 0.5 else found
    return ImageEnhance.Brightness(found).enhance(draws.uniform(*LIGHT))


if __name__ == "__main__":
    main()
