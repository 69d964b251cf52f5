"""Images with boxes and masks, from COCO json or a VOC devkit; unusable annotations are skipped and counted."""

from __future__ import annotations

import hashlib
import json
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from zoo.datasets import voc_classes
from zoo.errors import UserError, reason_of
from zoo.evaluate.dense.augment import hash_files
from zoo.transforms.limits import MAX_PIXELS

_FAR = 10  # a polygon that leaves the image by more than this many sides is damaged, not rounded

Box: TypeAlias = tuple[float, float, float, float]


class RunLengths(TypedDict):
    """A mask in COCO's run lengths: ``size`` is [height, width]; ``counts`` is a list where it is not compressed."""

    size: list[int]
    counts: str | bytes | list[int]


Segmentation: TypeAlias = list[list[float]] | RunLengths  # polygons [x0, y0, x1, y1, ...] or run lengths


@dataclass(frozen=True)
class Instance:
    """One annotated object.

    Attributes:
        box: x0, y0, x1, y1 in pixels, within the image, not empty.
        label: class, counted from 0.
        ignored: it counts neither as found nor as missed: COCO's crowds, VOC's difficult objects.
        area: of the mask where there is one (COCO's ``area``), else of the box; square pixels.
        segmentation: ``None`` without a mask.
    """

    box: Box
    label: int
    ignored: bool
    area: float
    segmentation: Segmentation | None = None


@dataclass(frozen=True)
class DetectionImage:
    """An image of ``width`` x ``height`` pixels and its objects."""

    path: Path
    width: int
    height: int
    instances: tuple[Instance, ...]

    def masks(self) -> NDArray[np.uint8]:
        """Return the masks of all instances, 0 or 1, [len(instances), height, width]."""
        from faster_coco_eval.core import mask as rle

        masks = np.zeros((len(self.instances), self.height, self.width), np.uint8)
        for n, instance in enumerate(self.instances):
            masks[n] = rle.decode(self.run_lengths(instance))
        return masks

    def run_lengths(self, instance: Instance) -> RunLengths:
        """Return the mask of an instance in compressed run lengths."""
        assert instance.segmentation is not None
        return compress_mask(instance.segmentation, self.height, self.width)


def compress_mask(segmentation: Segmentation, height: int, width: int) -> RunLengths:
    """Return polygons or run lengths as COCO's compressed run lengths."""
    from faster_coco_eval.core import mask as rle

    if isinstance(segmentation, list):
        merged: RunLengths = rle.merge(rle.frPyObjects(segmentation, height, width))
        return merged
    packed = rle.frPyObjects(segmentation, height, width) if isinstance(segmentation["counts"], list) else segmentation
    return RunLengths(size=packed["size"], counts=packed["counts"])


@dataclass(frozen=True)
class DetectionDataset:
    """One split of a detection data set.

    Attributes:
        metric: ``coco``, or ``voc07`` (11 points, matching by VOC's rules).
        skipped: number of annotations or images that were left out, by reason.
    """

    name: str
    classes: tuple[str, ...]
    images: Sequence[DetectionImage]
    metric: str
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_masks(self) -> bool:
        """Every object has a mask."""
        return all(i.segmentation is not None for image in self.images for i in image.instances)

    @cached_property
    def sha256(self) -> str:
        """Hash of the images' bytes and of the annotations as they are used."""
        text = json.dumps(
            [[s.width, s.height, [[i.box, i.label, i.ignored, i.area, i.segmentation] for i in s.instances]]
             for s in self.images],
            default=str,
        )  # fmt: skip
        return hashlib.sha256((hash_files(image.path for image in self.images) + text).encode()).hexdigest()

    def subset(self, rows: Sequence[int]) -> DetectionDataset:
        """Return the given images, under the same name."""
        return replace(self, images=[self.images[row] for row in rows])

    def for_training(self, *, masks: bool) -> DetectionDataset:
        """Return the images that have an object to learn, as Detectron2 filters them; the others are counted.

        COCO's crowds are left out; VOC's difficult objects are learned, as in Detectron2.

        Args:
            masks: an object without a mask cannot be learned.

        Raises:
            UserError: no image is left.
        """
        kept = []
        for image in self.images:
            # An object teaches something if it has what the loss needs.
            learned = tuple(
                i
                for i in image.instances
                if not (masks and i.segmentation is None) and not (self.metric == "coco" and i.ignored)
            )
            if learned:
                kept.append(replace(image, instances=learned))
        if not kept:
            raise UserError(f"{self.name} has no image with an object")
        # The result reports how many images were left out.
        empty = len(self.images) - len(kept)
        skipped = dict(self.skipped) | ({"pictures without objects": empty} if empty else {})
        return replace(self, images=kept, skipped=skipped)


def open_detection_data(data: Path, years: Sequence[int]) -> tuple[DetectionDataset, DetectionDataset]:
    """Open the train and test split of a VOC devkit (``years`` to train, 2007 to test) or of a folder with COCO JSON.

    Raises:
        UserError: neither is there, or files that they name are missing.
    """
    # A VOC devkit has fixed splits.
    if (root := find_voc_devkit(data)) is not None:
        return read_voc(root, [(year, "trainval") for year in years]), read_voc(root, [(2007, "test")])
    # Other data needs one COCO json for each split.
    train_file = _first_file(data, ("train.json", "annotations/instances_train2017.json", "annotations/train.json"))
    test_file = _first_file(
        data, ("test.json", "val.json", "annotations/instances_val2017.json", "annotations/val.json")
    )
    if train_file is None or test_file is None:
        raise UserError(
            f"{data} has neither VOC2007/Annotations nor train.json and val.json (or annotations/instances_*2017.json)"
        )
    train, test = read_coco(train_file, data), read_coco(test_file, data)
    # The class numbers must mean the same in both splits.
    if train.classes != test.classes:
        raise UserError(f"{train_file.name} and {test_file.name} list different categories")
    return train, test


def find_voc_devkit(data: Path) -> Path | None:
    """Return the folder that holds VOC2007: ``data`` or ``data/VOCdevkit``; ``None`` where there is none."""
    return next((r for r in (data, data / "VOCdevkit") if (r / "VOC2007" / "Annotations").is_dir()), None)


def read_coco(file: Path, data: Path) -> DetectionDataset:
    """Read one COCO json; its images are looked for in ``data``, beside the json and in a folder named for its split.

    Raises:
        UserError: the file is no COCO json, or images are missing.
    """
    # Check all parts of the json that the code below relies on.
    try:
        content = json.loads(file.read_bytes())
        images = {i["id"]: i for i in content["images"]}
        categories = sorted(content["categories"], key=lambda c: c["id"])
        annotations = content["annotations"]
        sizes = {key: (int(i["width"]), int(i["height"])) for key, i in images.items()}
        names = {key: str(i["file_name"]) for key, i in images.items()}
        for what, listed in (("images", content["images"]), ("categories", categories)):
            if len({each["id"] for each in listed}) < len(listed):  # one would hide the other
                raise ValueError(f"two {what} have one id")
        # masks are made in the size that the json states
        if large := [key for key, (w, h) in sizes.items() if w < 1 or h < 1 or w * h > MAX_PIXELS]:
            raise ValueError(f"an image of {sizes[large[0]][0]} x {sizes[large[0]][1]} pixels"[:80])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = reason_of(error)
        raise UserError(f"{file} is not a COCO json with images, annotations and categories ({reason})") from None

    # annotations by image
    labels = {c["id"]: n for n, c in enumerate(categories)}
    skipped: Counter[str] = Counter()
    instances: dict[object, list[Instance]] = {key: [] for key in images}
    for annotation in annotations:
        if not isinstance(annotation, dict) or not _is_one_of(annotation.get("image_id"), images):
            skipped["annotations of unknown pictures"] += 1
        elif not _is_one_of(annotation.get("category_id"), labels):
            skipped["annotations of unknown categories"] += 1
        else:
            size = sizes[annotation["image_id"]]
            instance = _coco_instance(annotation, labels[annotation["category_id"]], size, skipped)
            if instance is not None:
                instances[annotation["image_id"]].append(instance)

    # image files
    folders = (data, file.parent, data / file.stem, data / file.stem.removeprefix("instances_"))
    found, missing = [], []
    for key in sorted(images, key=str if any(isinstance(k, str) for k in images) else None):
        path = next((f / names[key] for f in folders if (f / names[key]).is_file()), None)
        if path is None:
            missing.append(names[key])
        else:
            found.append(DetectionImage(path, *sizes[key], tuple(instances[key])))
    # One missing image would change the score, so none may be missing.
    if missing:
        raise UserError(f"{file} names {len(missing)} images that are not in {data}, first {missing[0]}")
    classes = tuple(str(c.get("name", c["id"])) for c in categories)
    return DetectionDataset(f"{data.name}/{file.stem}", classes, found, "coco", dict(skipped))


def _is_one_of(value: object, known: Mapping[Any, object]) -> bool:
    return isinstance(value, int | float | str) and value in known  # a list cannot be looked up


def _coco_instance(
    annotation: Mapping[str, Any], label: int, size: tuple[int, int], skipped: Counter[str]
) -> Instance | None:
    """Return the object of one COCO annotation, or count in ``skipped`` why it cannot be used."""
    try:
        x, y, width, height = (float(v) for v in annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        skipped["annotations without a box"] += 1
        return None
    # Boxes may reach over the edge of the image.
    box = _clip((x, y, x + width, y + height), size)
    if box is None:
        skipped["empty boxes"] += 1
        return None
    # A mask is optional, but a broken one drops the object.
    segmentation = annotation.get("segmentation") or None
    if segmentation is not None:
        segmentation = _usable_segmentation(segmentation, size)
        if segmentation is None:
            skipped["objects whose mask cannot be used (far outside, under three points, of another size)"] += 1
            return None
    # COCO sorts objects by area; the box stands in where none is given. One below 0, as some programs write for none,
    # would be outside of all ranges, and the object would not count.
    area = annotation.get("area")
    if not isinstance(area, int | float) or not math.isfinite(area) or area < 0:
        area = (box[2] - box[0]) * (box[3] - box[1])
    return Instance(box, label, bool(annotation.get("iscrowd", 0)), float(area), segmentation)


def _usable_segmentation(value: Any, size: tuple[int, int]) -> Segmentation | None:
    """Return the usable part of a ``segmentation`` of COCO json, ``None`` if there is none."""
    if isinstance(value, list):
        return [polygon for polygon in value if _is_usable_polygon(polygon, size)] or None
    if not isinstance(value, dict) or value.get("size") != [size[1], size[0]]:
        return None
    counts = value.get("counts")
    if isinstance(counts, list):  # not compressed: run lengths of all pixels
        usable = all(isinstance(c, int) and c >= 0 for c in counts) and sum(counts) == size[0] * size[1]
    else:
        usable = isinstance(counts, str)
    # the dict itself, as the hash of the data set depends on the order of its keys
    return cast(RunLengths, value) if usable else None


def _is_usable_polygon(polygon: object, size: tuple[int, int]) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in polygon):
        return False
    return all(abs(v) <= _FAR * max(size) for v in polygon)


def _clip(box: Box, size: tuple[int, int]) -> Box | None:
    """Return the part of a box within the image, ``None`` if it is empty or not finite."""
    if not all(math.isfinite(v) for v in box):
        return None
    x0, y0 = max(0.0, box[0]), max(0.0, box[1])
    x1, y1 = min(float(size[0]), box[2]), min(float(size[1]), box[3])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def read_voc(root: Path, parts: Sequence[tuple[int, str]]) -> DetectionDataset:
    """Read (year, list) parts of a VOC devkit, such as (2007, "trainval"), as one data set.

    Raises:
        UserError: a list, an annotation or an image is missing or damaged.
    """
    images: list[DetectionImage] = []
    skipped: Counter[str] = Counter()
    for year, part in parts:
        # Each part is a list of image names.
        folder = root / f"VOC{year}"
        names = folder / "ImageSets" / "Main" / f"{part}.txt"
        try:
            stems = names.read_text().split()
        except OSError:
            raise UserError(f"no {names}: unpack VOC {year} ({part}) there, or take another --schedule") from None
        images += [_read_voc_image(folder, stem, skipped) for stem in stems]
    name = "+".join(f"VOC{year}/{part}" for year, part in parts)
    # Missing images are reported at once, not during training.
    if missing := [image.path for image in images if not image.path.is_file()]:
        raise UserError(f"{name}: {len(missing)} images are missing, first {missing[0]}")
    return DetectionDataset(name, voc_classes.CLASSES, images, "voc07", dict(skipped))


def _read_voc_image(folder: Path, stem: str, skipped: Counter[str]) -> DetectionImage:
    file = folder / "Annotations" / f"{stem}.xml"
    instances = []
    try:
        root = ElementTree.parse(file).getroot()
        width, height = (int(_text(root, f"size/{side}")) for side in ("width", "height"))
        # Objects without a usable box are counted and left out.
        for found in root.iter("object"):
            label, bounds = _text(found, "name"), found.find("bndbox")
            if label not in voc_classes.CLASSES or bounds is None:
                skipped["objects without a box or of unknown classes"] += 1
                continue
            x0, y0, x1, y1 = (float(_text(bounds, side)) for side in ("xmin", "ymin", "xmax", "ymax"))
            # VOC counts pixels from 1 and includes the last one (Detectron2's rule)
            box = _clip((x0 - 1, y0 - 1, x1, y1), (width, height))
            if box is None:
                skipped["empty boxes"] += 1
                continue
            # Difficult objects stay, and the metric ignores them.
            difficult = found.findtext("difficult", "0").strip() == "1"
            area = (box[2] - box[0]) * (box[3] - box[1])
            instances.append(Instance(box, voc_classes.CLASSES.index(label), difficult, area))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file} is no VOC annotation ({error})") from None
    return DetectionImage(folder / "JPEGImages" / f"{stem}.jpg", width, height, tuple(instances))


def _text(node: ElementTree.Element, path: str) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"no {path}")
    return text.strip()


def _first_file(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
