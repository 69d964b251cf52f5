"""Detection: annotations of both kinds, training on real photographs, and what is wrong with a data set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated import SIDE, brightness, coco, corners, photo
from PIL import Image

from zoo.api import load
from zoo.errors import UserError
from zoo.evaluate.dense.schedules import DETECTION
from zoo.evaluate.detection import annotations as source
from zoo.evaluate.detection.average_precision import Detections, coco_scores
from zoo.evaluate.detection.rcnn import RCNN
from zoo.evaluate.detection.training import detect_all, load_sample, train_network, training_size
from zoo.evaluate.errors import Diverged
from zoo.evaluate.run import evaluate
from zoo.inference.embedder import Embedder

TINY = replace(
    DETECTION["small"], iterations=2, drops=(), sizes=(64,), test_size=64, max_size=128, warmup=0, precise=2,
    anchors=(16, 24), pool=6, rois=16, proposals_before=(100, 60), proposals=(60, 16),
)  # fmt: skip
SETTINGS = {
    "iterations": "2", "sizes": "48,64", "test_size": "64", "max_size": "128", "precise": "2", "anchors": "16,24",
    "pool": "6", "rois": "16", "proposals_before": "100,60", "proposals": "60,16",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    coco(data, "train", range(2))
    coco(data, "val", range(2, 4))
    return data


def test_it_can_learn_real_photographs_by_heart(folder: Path, narrow: Embedder) -> None:
    train, _ = source.open_detection_data(folder, (2007,))
    schedule = replace(TINY, iterations=80, drops=(65,), lr=0.03, warmup=5, flip=0.0, pool=4)
    torch.manual_seed(0)
    network = RCNN(narrow.model, 2, schedule, masks=True)
    losses = train_network(network, train, schedule, narrow.preprocessing, seed=0, key="o", device="cpu")
    assert np.mean(losses[-4:]) < 0.2 * np.mean(losses[:2])
    found = detect_all(network, train, schedule, narrow.preprocessing, "cpu")
    assert coco_scores(train, found, "bbox")["AP50"] > 95
    assert coco_scores(train, found, "segm")["AP50"] > 95


@pytest.mark.parametrize(
    "part", ["backbone.0.0.weight", "rpn.head.bbox_pred.bias", "heads.box_predictor.cls_score.bias"]
)
def test_weights_that_diverged_at_the_last_step_are_no_images_without_objects(
    part: str, folder: Path, narrow: Embedder
) -> None:
    train, _ = source.open_detection_data(folder, (2007,))
    network = RCNN(narrow.model, 2, TINY, masks=False)
    parameter = network.get_parameter(part)
    first = (0,) * parameter.ndim
    with torch.no_grad():
        parameter[first] = torch.nan
    with pytest.raises(Diverged, match="no finite weights"):
        detect_all(network, train, TINY, narrow.preprocessing, "cpu")
    if part.startswith("backbone"):
        with torch.no_grad():
            parameter[first] = 3e38  # finite, and what follows from it is not
        with pytest.raises(Diverged, match="no finite features"):
            detect_all(network, train, TINY, narrow.preprocessing, "cpu")


def test_the_command_on_coco_is_the_same_again(folder: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "r.json"
    first = evaluate("detect", "random", folder, out=out, device="cpu", settings=SETTINGS, schedule="small")
    assert json.loads(out.read_text()) == json.loads(json.dumps(first))
    assert (first["metric"], first["data"]["classes"], first["parameters"]["rule"]) == ("box AP", 2, "coco")
    assert {"box AP", "box AP50", "box AP75", "mask AP", "mask AP50", "mask AP75"} <= set(first["metrics"])
    kept = evaluate("detect", "random", folder, device="cpu", settings=SETTINGS, schedule="small")
    for cell in (cache / "evaluations").iterdir():
        cell.unlink()
    again = evaluate("detect", "random", folder, device="cpu", settings=SETTINGS, schedule="small")
    assert kept | {"seconds": 0} == again | {"seconds": 0} == first | {"seconds": 0}


def test_a_learning_rate_is_chosen_and_trials_are_averaged(folder: Path, cache: Path) -> None:
    """[S] table 5: the learning rate searched, VOC as the mean of five trials."""
    settings = SETTINGS | {"lrs": "0.01,1e30", "trials": "2"}
    found = evaluate("detect", "random", folder, device="cpu", settings=settings, schedule="small")
    parameters, trials = found["parameters"], found["details"]["trials"]  # type: ignore[typeddict-item]
    assert (parameters["lr"], parameters["held_out_score_by_lr"]["1e+30"]) == (0.01, "diverged")
    assert parameters["chosen_by"].startswith("a tenth of the training images")
    assert found["interval"] == "t over 2 seeds"
    assert len(trials["scores"]) == 2
    assert trials["mean"] == pytest.approx(np.mean(trials["scores"]), abs=0.02)
    assert trials["std"] == pytest.approx(np.std(trials["scores"], ddof=1), abs=0.02)
    assert found["score"] == trials["mean"]
    alone = evaluate("detect", "random", folder, device="cpu", settings=SETTINGS, schedule="small")
    assert alone["details"]["trials"]["std"] is None  # type: ignore[typeddict-item]
    assert alone["score"] == trials["scores"][0]  # the first trial is the run from the seed
    assert alone["parameters"]["chosen_by"] == "given"
    assert found["metrics"]["loss"] != alone["metrics"]["loss"]  # the second trial has a seed of its own


def voc(data: Path, year: int, part: str, photos: range) -> Path:
    root = data / f"VOC{year}"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for n in photos:
        image = photo(n, 64, 64)
        image.save(root / "JPEGImages" / f"{n:06d}.jpg")
        x, y = corners(brightness(image), True)
        box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + SIDE}</xmax><ymax>{y + SIDE}</ymax>"
        (root / "Annotations" / f"{n:06d}.xml").write_text(
            "<annotation><size><width>64</width><height>64</height><depth>3</depth></size>"
            f"<object><name>cat</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
            "<object><name>dog</name><difficult>1</difficult>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>"
        )
    (root / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{n:06d}\n" for n in photos))
    return root


def test_the_command_on_a_voc_devkit(tmp_path: Path) -> None:
    devkit = tmp_path / "VOCdevkit"
    voc(devkit, 2007, "trainval", range(2))
    voc(devkit, 2007, "test", range(2, 4))
    voc(devkit, 2012, "trainval", range(4, 5))
    train, test = source.open_detection_data(tmp_path, (2007, 2012))
    assert (len(train), len(test), train.name) == (3, 2, "VOC2007/trainval+VOC2012/trainval")
    cat, dog = test.images[0].instances
    x, y = corners(brightness(photo(2, 64, 64)), True)
    assert cat.box == (x, y, x + SIDE, y + SIDE)  # counted from 0, the end not included
    assert (dog.ignored, cat.ignored) == (True, False)
    result = evaluate("detect", "random", tmp_path, device="cpu", settings=SETTINGS, schedule="small")
    assert (result["metric"], result["parameters"]["rule"], result["parameters"]["masks"]) == (
        "box AP50",
        "voc07",
        False,
    )
    assert (result["data"]["name"], result["data"]["train"]["images"]) == ("VOC07", 2)  # small trains on 2007 alone
    (devkit / "VOC2012" / "ImageSets" / "Main" / "trainval.txt").unlink()
    with pytest.raises(UserError, match=r"no .*trainval\.txt: unpack VOC 2012"):
        source.open_detection_data(tmp_path, (2007, 2012))
    (devkit / "VOC2007" / "Annotations" / "000000.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"000000\.xml is no VOC annotation"):
        source.open_detection_data(tmp_path, (2007,))


def test_a_flip_moves_image_boxes_and_masks_alike(folder: Path) -> None:
    embedder = load("byol_r18_mini", device="cpu")
    image = source.open_detection_data(folder, (2007,))[0].images[0]
    plain, target = load_sample(image, replace(TINY, flip=0.0), embedder.preprocessing, 0, 0, 0, True)
    flipped, mirrored = load_sample(image, replace(TINY, flip=1.0), embedder.preprocessing, 0, 0, 0, True)
    assert torch.equal(flipped, plain.flip(2))
    assert torch.equal(mirrored["masks"], target["masks"].flip(2))
    boxes = target["boxes"]
    assert torch.equal(mirrored["boxes"][:, [0, 2]], 64 - boxes[:, [2, 0]])
    for box, mask in zip(boxes.int().tolist(), target["masks"], strict=True):
        assert int(mask.sum()) == SIDE * SIDE
        assert bool(mask[box[1] : box[3], box[0] : box[2]].all())
    assert target["labels"].tolist() == [1, 2]
    twice = replace(TINY, flip=0.0, sizes=(128,), max_size=999)
    _, larger = load_sample(image, twice, embedder.preprocessing, 0, 0, 0, True)
    assert torch.equal(larger["boxes"], 2 * boxes)


def test_images_keep_their_shape_and_the_largest_side() -> None:
    assert training_size((640, 480), 800, DETECTION["coco-1x"]) == (1067, 800)
    assert training_size((1000, 200), 800, DETECTION["coco-1x"]) == (1333, 267)
    assert training_size((640, 480), 1024, DETECTION["voc07-frozen-24k"]) == (1024, 768)
    assert training_size((480, 640), 480, DETECTION["voc07-frozen-24k"]) == (360, 480)


BAD: dict[str, tuple[dict[str, Any], str | None]] = {
    "no area": ({"bbox": [5, 5, 0, 10]}, "empty boxes"),
    "outside": ({"bbox": [70, 5, 10, 10]}, "empty boxes"),
    "infinite": ({"bbox": [float("nan"), 5, 10, 10]}, "empty boxes"),
    "no box": ({"bbox": None}, "annotations without a box"),
    "another picture": ({"image_id": 77}, "annotations of unknown pictures"),
    "another category": ({"category_id": 1}, "annotations of unknown categories"),
    "a list of pictures": ({"image_id": [0]}, "annotations of unknown pictures"),
    "an object of categories": ({"category_id": {"id": 0}}, "annotations of unknown categories"),
    "two points": ({"segmentation": [[1, 1, 9, 9]]}, "objects whose mask cannot be used"),
    "far away": ({"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}, "objects whose mask cannot be used"),
    "another size": ({"segmentation": {"size": [9, 9], "counts": "x"}}, "objects whose mask cannot be used"),
    "a little outside": ({"bbox": [-3, -3, 40, 40], "segmentation": [[-3, -3, 37, -3, 37, 37, -3, 37]]}, None),
    "beyond the edge": ({"bbox": [50, 50, 40, 40], "segmentation": [[50, 50, 90, 50, 90, 90, 50, 90]]}, None),
    "run lengths": ({"segmentation": {"size": [64, 64], "counts": [0, 64, 4032]}, "iscrowd": 1}, None),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_annotation_is_skipped_and_counted(name: str, folder: Path) -> None:
    content = json.loads((folder / "train.json").read_text())
    change, reason = BAD[name]
    content["annotations"][0] |= change
    (folder / "train.json").write_text(json.dumps(content))
    train, _ = source.open_detection_data(folder, (2007,))
    skipped = {k: n for k, n in train.skipped.items() if n}
    if reason is None:
        assert not skipped
        instance = train.images[0].instances[0]
        x0, y0, x1, y1 = instance.box
        assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64  # noqa: PT018
        masks = train.images[0].masks()
        assert masks.shape == (2, 64, 64)
        assert masks[0].any()
    else:
        (found,) = skipped
        assert found.startswith(reason)
        assert len(train.images[0].instances) == 1


@pytest.mark.parametrize("area", [-1, -1.0, None, "12"])
def test_an_area_that_is_none_is_that_of_the_box(area: Any, folder: Path) -> None:
    """COCO's rule leaves out what has an area below 0: perfect detections scored 0."""
    content = json.loads((folder / "val.json").read_text())
    content["annotations"] = [a | {"area": area} for a in content["annotations"]]
    (folder / "val.json").write_text(json.dumps(content))
    _, test = source.open_detection_data(folder, (2007,))
    perfect = [
        Detections(
            np.array([i.box for i in image.instances]).reshape(-1, 4),
            np.linspace(0.9, 0.8, len(image.instances)),
            np.array([i.label for i in image.instances], np.int64),
        )
        for image in test.images
    ]
    assert coco_scores(test, perfect, "bbox") == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})


@pytest.mark.parametrize("part", ["images", "categories"])
def test_two_with_one_id_are_refused(part: str, folder: Path) -> None:
    """The second one would take the place of the first, and the score would be of fewer images."""
    content = json.loads((folder / "val.json").read_text())
    content[part].append(content[part][0] | {"name": "another"})
    (folder / "val.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"val\.json is not a COCO json .*two {part} have one id"):
        source.open_detection_data(folder, (2007,))


def test_images_without_objects_are_not_trained_but_tested(folder: Path) -> None:
    content = json.loads((folder / "train.json").read_text())
    content["annotations"] = [a | {"iscrowd": int(a["image_id"] == 0)} for a in content["annotations"]]
    (folder / "train.json").write_text(json.dumps(content))
    train, _ = source.open_detection_data(folder, (2007,))
    kept = train.for_training(masks=True)
    assert (len(train), len(kept), kept.skipped["pictures without objects"]) == (2, 1, 1)
    content["annotations"] = []
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no image with an object"):
        source.open_detection_data(folder, (2007,))[0].for_training(masks=True)


def test_what_is_wrong_with_a_data_set_is_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match="neither VOC2007/Annotations nor train"):
        source.open_detection_data(folder / "train", (2007,))
    good = (folder / "train.json").read_text()
    for wrong in ("", "[]", '{"images": []}', '{"images": [{}], "annotations": [], "categories": []}'):
        (folder / "train.json").write_text(wrong)
        with pytest.raises(UserError, match=r"train\.json is not a COCO json"):
            source.open_detection_data(folder, (2007,))
    (folder / "train.json").write_text(good.replace("bright", "bold"))
    with pytest.raises(UserError, match="list different categories"):
        source.open_detection_data(folder, (2007,))
    (folder / "train.json").write_text(good)
    train, _ = source.open_detection_data(folder, (2007,))
    Image.new("RGB", (50, 64)).save(folder / "train" / "0.jpg")
    with pytest.raises(UserError, match=r"0\.jpg is 50 x 64, its annotation says 64 x 64"):
        load_sample(train.images[0], TINY, load("byol_r18_mini", device="cpu").preprocessing, 0, 0, 0, False)
    (folder / "train" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"names 1 images that are not in .*first train/0\.jpg"):
        source.open_detection_data(folder, (2007,))
    coco(folder, "train", range(2))
    with pytest.raises(UserError, match=r"norm: 'none' is none of batch, frozen"):
        evaluate("detect", "random", folder, device="cpu", settings={"norm": "none"}, schedule="small")
