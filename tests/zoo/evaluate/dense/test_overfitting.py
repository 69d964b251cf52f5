"""Each dense protocol's training loop learns 64 real images by heart, scored by the protocol's own metric."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from annotated import coco, depth_images, label_images

from zoo.api import load
from zoo.evaluate.dense.schedules import DEPTH, DETECTION, SEGMENTATION
from zoo.evaluate.depth import data as depth_data
from zoo.evaluate.depth import depth
from zoo.evaluate.detection import annotations, detection
from zoo.evaluate.detection.average_precision import coco_scores
from zoo.evaluate.segmentation import data as segmentation_data
from zoo.evaluate.segmentation import segmentation
from zoo.evaluate.segmentation.iou import mean_iou

IMAGES = range(64)


@pytest.mark.slow
def test_segmentation(tmp_path: Path) -> None:
    label_images(tmp_path, "train", IMAGES)
    label_images(tmp_path, "test", IMAGES)
    schedule = replace(
        SEGMENTATION["small"], iterations=320, short_side=0, crop=64, batch_size=8, width=64, scale=(1.0, 1.0), flip=0.0
    )
    images = segmentation_data.open_segmentation_data(tmp_path, schedule)["train"]
    embedder = load("byol_r18_mini", device="cpu")
    torch.manual_seed(0)
    network = segmentation.FCN(embedder.model, 3, width=schedule.width, dilation=schedule.dilation)
    preprocessing = embedder.preprocessing
    segmentation.train_network(network, images, schedule, preprocessing, lr=0.05, seed=0, key="o", device="cpu")
    matrices = segmentation.predict_all(network, images, schedule, preprocessing, 3, "cpu")
    assert len(images) == 64
    assert mean_iou(matrices) > 90


@pytest.mark.slow
def test_depth(tmp_path: Path) -> None:
    depth_images(tmp_path / "train", IMAGES)
    depth_images(tmp_path / "test", IMAGES)
    schedule = replace(
        DEPTH["small"], iterations=320, batch_size=8, crop=(64, 48), short_side=48, decoder=(32, 16, 8, 8), lrs=(0.05,),
        flip=0.0,
    )  # fmt: skip
    frames, _ = depth_data.open_depth_data(tmp_path, schedule)
    embedder = load("byol_r18_mini.tin32", device="cpu")  # the limits below are for this network and 320 steps
    torch.manual_seed(0)
    network = depth.DepthNet(embedder.model, schedule.decoder)
    depth.train_network(network, frames, schedule, embedder.preprocessing, seed=0, key="o", device="cpu")
    found = depth.depth_metrics(depth.predict_all(network, frames, schedule, embedder.preprocessing, "cpu"))
    assert len(frames) == 64
    assert found["pct<1.25"] > 97
    assert found["rel"] < 0.1


@pytest.mark.slow
def test_detection_of_boxes_and_masks(tmp_path: Path) -> None:
    coco(tmp_path, "train", IMAGES)
    coco(tmp_path, "val", IMAGES)
    schedule = replace(
        DETECTION["small"], iterations=600, drops=(450, 540), sizes=(64,), test_size=64, max_size=128, lr=0.02,
        batch_size=4, flip=0.0, precise=10, anchors=(16, 24), pool=4, rois=16, proposals_before=(100, 60),
        proposals=(60, 16),
    )  # fmt: skip
    train, _ = annotations.open_detection_data(tmp_path, schedule.years)
    embedder = load("byol_r18_mini", device="cpu")
    torch.manual_seed(0)
    network = detection.RCNN(embedder.model, 2, schedule, masks=True)
    detection.train_network(network, train, schedule, embedder.preprocessing, seed=0, key="o", device="cpu")
    found = detection.detect_all(network, train, schedule, embedder.preprocessing, "cpu")
    assert len(train) == 64
    for kind in ("bbox", "segm"):
        scores = coco_scores(train, found, kind)
        assert scores["AP50"] > 95
        assert scores["AP75"] > 80
