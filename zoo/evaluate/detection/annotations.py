"""Pictures with boxes and masks: COCO json or a VOC devkit. What an annotation gets wrong is skipped and counted."""

from __future__ import annotations

import hashlib
import json
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.datasets import voc_classes
from zoo.errors import UserError
from zoo.evaluate.dense.augment import files_sha256

_FAR = 10  # a polygon that leaves the picture by more than this many sides is damage, not rounding


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        box: x0, y0, x1, y1 in pixels, within the picture, not empty.
        label: from 0.
        ignored: neither found nor missed: COCO's crowds, VOC's difficult objects.
        area: of the mask where there is one, square pixels (COCO's ``area``).
        outline: COCO polygons or run lengths, ``None`` without a mask.
    """

    box: tuple[float, float, float, float]
    label: int
    ignored: bool
    area: float
    outline: Any = None


@dataclass(frozen=True)
class Scene:
    """A picture of ``width`` x ``height`` pixels and its objects."""

    path: Path
    width: int
    height: int
    instances: tuple[Instance, ...]

    def masks(self, instances: Sequence[Instance]) -> NDArray[np.uint8]:
        """0 or 1, [len(instances), height, width]."""
        from faster_coco_eval.core import mask as rle

        if not instances:
            return np.zeros((0, self.height, self.width), np.uint8)
        return np.stack([rle.decode(run_lengths(i.outline, self.height, self.width)) for i in instances])


def run_lengths(outline: Any, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed run lengths of polygons or of uncompressed ones."""
    from faster_coco_eval.core import mask as rle

    if isinstance(outline, list):
        merged: dict[str, Any] = rle.merge(rle.frPyObjects(outline, height, width))
        return merged
    compressed = outline if not isinstance(outline["counts"], list) else rle.frPyObjects(outline, height, width)
    return dict(compressed)


@dataclass(frozen=True)
class Scenes:
    """A split.

    Attributes:
        metric: ``coco``, or ``voc07`` (11 points, IoU by VOC's rules).
        skipped: what was left out, by reason.
    """

    name: str
    classes: tuple[str, ...]
    scenes: Sequence[Scene]
    metric: str
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def has_masks(self) -> bool:
        """Whether every object has an outline."""
        return all(i.outline is not None for scene in self.scenes for i in scene.instances)

    @cached_property
    def digest(self) -> str:
        """Of the pictures' bytes and of the annotations as they are used."""
        text = json.dumps(
            [[s.width, s.height, [[i.box, i.label, i.ignored, i.area, i.outline] for i in s.instances]]
             for s in self.scenes],
            default=str,
        )  # fmt: skip
        return hashlib.sha256((files_sha256(s.path for s in self.scenes) + text).encode()).hexdigest()


def devkit(data: Path) -> Path | None:
    """The folder that holds VOC2007: ``data`` or ``data/VOCdevkit``."""
    return next((r for r in (data, data / "VOCdevkit") if (r / "VOC2007" / "Annotations").is_dir()), None)


def splits(data: Path, years: Sequence[int]) -> tuple[Scenes, Scenes]:
    """Train and test of a VOC devkit (``years`` to train, 2007 to test) or of a folder with COCO json.

    Raises:
        UserError: neither there, or files that they name are missing.
    """
    if (root := devkit(data)) is not None:
        return _voc(root, [(year, "trainval") for year in years]), _voc(root, [(2007, "test")])
    train_file = _first(data, ("train.json", "annotations/instances_train2017.json", "annotations/train.json"))
    test_file = _first(data, ("test.json", "val.json", "annotations/instances_val2017.json", "annotations/val.json"))
    if train_file is None or test_file is None:
        raise UserError(
            f"{data} has neither VOC2007/Annotations nor train.json and val.json (or annotations/instances_*2017.json)"
        )
    train, test = read_coco(train_file, data), read_coco(test_file, data)
    if train.classes != test.classes:
        raise UserError(f"{train_file.name} and {test_file.name} list different categories")
    return train, test


def trainable(split: Scenes, *, masks: bool) -> Scenes:
    """Only scenes that have an object to learn, as Detectron2 filters; the others are counted."""

    def usable(instance: Instance) -> bool:
        return (instance.outline is not None) if masks else True

    # VOC's difficult objects are trained (Detectron2 too), COCO's crowds are not
    crowds = split.metric == "coco"
    kept = []
    for scene in split.scenes:
        found = tuple(i for i in scene.instances if usable(i) and not (crowds and i.ignored))
        if found:
            kept.append(Scene(scene.path, scene.width, scene.height, found))
    empty = len(split.scenes) - len(kept)
    if not kept:
        raise UserError(f"{split.name} has no picture with an object")
    skipped = dict(split.skipped) | ({"pictures without objects": empty} if empty else {})
    return Scenes(split.name, split.classes, kept, split.metric, skipped)


def read_coco(file: Path, data: Path) -> Scenes:
    """One COCO json; ``file_name`` is looked for in ``data``, beside the json and in a folder of the json's split.

    Raises:
        UserError: no such json, or pictures that are missing.
    """
    try:
        content = json.loads(file.read_bytes())
        images = {i["id"]: i for i in content["images"]}
        categories = sorted(content["categories"], key=lambda c: c["id"])
        annotations = content["annotations"]
        sizes = {key: (int(i["width"]), int(i["height"])) for key, i in images.items()}
        names = {key: str(i["file_name"]) for key, i in images.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a COCO json with images, annotations and categories ({error!r})") from None
    labels = {c["id"]: n for n, c in enumerate(categories)}
    skipped: Counter[str] = Counter()
    found: dict[Any, list[Instance]] = {key: [] for key in images}
    for annotation in annotations:
        if not isinstance(annotation, dict) or annotation.get("image_id") not in images:
            skipped["annotations of unknown pictures"] += 1
        elif annotation.get("category_id") not in labels:
            skipped["annotations of unknown categories"] += 1
        else:
            size = sizes[annotation["image_id"]]
            instance = _coco_instance(annotation, labels[annotation["category_id"]], size, skipped)
            if instance is not None:
                found[annotation["image_id"]].append(instance)
    folders = (data, file.parent, data / file.stem, data / file.stem.removeprefix("instances_"))
    scenes, missing = [], []
    for key in sorted(images, key=str if any(isinstance(k, str) for k in images) else None):
        path = next((f / names[key] for f in folders if (f / names[key]).is_file()), None)
        if path is None:
            missing.append(names[key])
        else:
            scenes.append(Scene(path, *sizes[key], tuple(found[key])))
    if missing:
        raise UserError(f"{file} names {len(missing)} pictures that are not in {data}, first {missing[0]}")
    classes = tuple(str(c.get("name", c["id"])) for c in categories)
    return Scenes(f"{data.name}/{file.stem}", classes, scenes, "coco", dict(skipped))


def _coco_instance(
    annotation: Mapping[str, Any], label: int, size: tuple[int, int], skipped: Counter[str]
) -> Instance | None:
    try:
        x, y, width, height = (float(v) for v in annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        skipped["annotations without a box"] += 1
        return None
    box = _clipped((x, y, x + width, y + height), size)
    if box is None:
        skipped["empty boxes"] += 1
        return None
    outline = annotation.get("segmentation")
    if outline:
        outline = _usable_outline(outline, size)
        if outline is None:
            skipped["objects whose mask cannot be used (far outside, under three points, of another size)"] += 1
            return None
    area = annotation.get("area")
    if not isinstance(area, int | float) or not math.isfinite(area):
        area = (box[2] - box[0]) * (box[3] - box[1])
    return Instance(box, label, bool(annotation.get("iscrowd", 0)), float(area), outline or None)


def _usable_outline(outline: Any, size: tuple[int, int]) -> Any:
    if isinstance(outline, list):
        return [p for p in outline if _usable_polygon(p, size)] or None
    if not isinstance(outline, dict) or outline.get("size") != [size[1], size[0]]:
        return None
    counts = outline.get("counts")
    if isinstance(counts, list):  # uncompressed: run lengths of all pixels
        runs = all(isinstance(c, int) and c >= 0 for c in counts)
        return outline if runs and sum(counts) == size[0] * size[1] else None
    return outline if isinstance(counts, str) else None


def _usable_polygon(polygon: Any, size: tuple[int, int]) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in polygon):
        return False
    return all(abs(v) <= _FAR * max(size) for v in polygon)


def _clipped(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    if not all(math.isfinite(v) for v in box):
        return None
    x0, y0 = max(0.0, box[0]), max(0.0, box[1])
    x1, y1 = min(float(size[0]), box[2]), min(float(size[1]), box[3])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _voc(root: Path, parts: Sequence[tuple[int, str]]) -> Scenes:
    scenes: list[Scene] = []
    skipped: Counter[str] = Counter()
    for year, part in parts:
        folder = root / f"VOC{year}"
        names = folder / "ImageSets" / "Main" / f"{part}.txt"
        try:
            stems = names.read_text().split()
        except OSError:
            raise UserError(f"no {names}: unpack VOC {year} ({part}) there, or take another --schedule") from None
        scenes += [_voc_scene(folder, stem, skipped) for stem in stems]
    name = "+".join(f"VOC{year}/{part}" for year, part in parts)
    if missing := [s.path for s in scenes if not s.path.is_file()]:
        raise UserError(f"{name}: {len(missing)} pictures are missing, first {missing[0]}")
    return Scenes(name, voc_classes.CLASSES, scenes, "voc07", dict(skipped))


def _voc_scene(folder: Path, stem: str, skipped: Counter[str]) -> Scene:
    file = folder / "Annotations" / f"{stem}.xml"
    instances = []
    try:
        tree = ElementTree.parse(file)
        width, height = (int(_text(tree, f"size/{side}")) for side in ("width", "height"))
        for found in tree.iter("object"):
            label, box = _text(found, "name"), found.find("bndbox")
            if label not in voc_classes.CLASSES or box is None:
                skipped["objects without a box or of unknown classes"] += 1
                continue
            x0, y0, x1, y1 = (float(_text(box, side)) for side in ("xmin", "ymin", "xmax", "ymax"))
            # VOC counts pixels from 1 and includes the last one (Detectron2's rule)
            clipped = _clipped((x0 - 1, y0 - 1, x1, y1), (width, height))
            if clipped is None:
                skipped["empty boxes"] += 1
                continue
            difficult = found.findtext("difficult", "0").strip() == "1"
            area = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1])
            instances.append(Instance(clipped, voc_classes.CLASSES.index(label), difficult, area))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file} is no VOC annotation ({error})") from None
    return Scene(folder / "JPEGImages" / f"{stem}.jpg", width, height, tuple(instances))


def _text(node: Any, path: str) -> str:
    text: str | None = node.findtext(path)
    if text is None:
        raise ValueError(f"no {path}")
    return text.strip()


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
