"""Small versions of real photographs, with annotations that can be seen in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PHOTOS = sorted((Path(__file__).parents[1] / "examples" / "photos").glob("*.jpg"))
SIDE = 24  # of objects, in pixels


def photo(n: int, width: int = 64, height: int = 48) -> Image.Image:
    """Return a small version of a real photograph, and of quarters of them from the last one on."""
    part, n = divmod(n, len(PHOTOS))
    image = Image.open(PHOTOS[n]).convert("RGB")
    if part:
        x, y = (part - 1) % 2 * image.width // 2, (part - 1) // 2 * image.height // 2
        image = image.crop((x, y, x + image.width // 2, y + image.height // 2))
    return image.resize((width, height), Image.Resampling.BILINEAR)


def brightness(image: Image.Image) -> np.ndarray:
    """Return smoothed gray values in 0..255: an annotation that can be seen in the image."""
    small = image.convert("L").resize((4, 3), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR))


def corners(values: np.ndarray, brightest: bool) -> tuple[int, int]:
    """Return the top left of the square of ``SIDE`` pixels whose middle is the brightest, or the darkest."""
    half = SIDE // 2
    inner = values[half : values.shape[0] - half, half : values.shape[1] - half].astype(np.int64)
    y, x = np.unravel_index((inner if brightest else -inner).argmax(), inner.shape)
    return int(x), int(y)


def coco(data: Path, split: str, photos: range) -> dict[str, Any]:
    """Write photographs and COCO json; the objects are squares around the brightest and the darkest point."""
    images, annotations = [], []
    (data / split).mkdir(parents=True, exist_ok=True)
    for n in photos:
        image = photo(n, 64, 64)
        image.save(data / split / f"{n}.jpg", quality=95)
        images.append({"id": n, "file_name": f"{split}/{n}.jpg", "width": 64, "height": 64})
        for category, brightest in ((7, True), (9, False)):
            x, y = corners(brightness(image), brightest)
            square = [x, y, x + SIDE, y, x + SIDE, y + SIDE, x, y + SIDE]
            annotations.append(
                {"id": len(annotations), "image_id": n, "category_id": category, "bbox": [x, y, SIDE, SIDE],
                 "area": SIDE * SIDE, "iscrowd": 0, "segmentation": [square]}
            )  # fmt: skip
    categories = [{"id": 7, "name": "bright"}, {"id": 9, "name": "dark"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (data / f"{split}.json").write_text(json.dumps(content))
    return content


def label_images(data: Path, split: str, photos: range, *, void: int | None = None) -> None:
    """Write photographs and label images of three brightnesses; the top rows are ``void``."""
    for n in photos:
        image = photo(n)
        labels = np.digitize(brightness(image), [85, 170]).astype(np.uint8)  # dark, middle, bright
        if void is not None:
            labels[:4] = void
        (data / split).mkdir(parents=True, exist_ok=True)
        (data / f"{split}-labels").mkdir(exist_ok=True)
        image.save(data / split / f"{n}.jpg", quality=95)
        Image.fromarray(labels).save(data / f"{split}-labels" / f"{n}.png")


def depth_images(data: Path, photos: range) -> None:
    """Write photographs and depths in millimetres that grow with brightness; the top rows are unknown."""
    data.mkdir()
    for n in photos:
        image = photo(n)
        millimetres = 1000 + 15 * brightness(image).astype(np.uint16)
        millimetres[:3] = 0
        image.save(data / f"{n}.jpg", quality=95)
        Image.fromarray(millimetres).save(data / f"{n}.png")
