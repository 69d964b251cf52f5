"""Faster and Mask R-CNN with the C4 head: torchvision's proposal network, samplers and losses around a timm ResNet.

The stem and three stages run once per image; the fourth stage runs on every region (He et al. 2016, appendix A;
Detectron2's ``Res5ROIHeads``), and its features serve boxes and masks alike. The constants are those of Detectron2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align

from zoo.evaluate.dense.backbone import freeze_bn_stats, out_channels, split_stages, stage_strides
from zoo.evaluate.dense.finetune import require_finite
from zoo.evaluate.dense.schedules import DetectionSchedule

_RATIOS = (0.5, 1.0, 2.0)  # of anchors; this and the other numbers of this file are Detectron2's defaults
_MASK_WIDTH = 256


class C4Heads(RoIHeads):  # type: ignore[misc]
    """torchvision's sampling, losses and post-processing, with one pass of the last stage for boxes and masks.

    Args:
        last: the last stage.
        channels: of its map.
        classes: with the background.
        stride: of the map that regions are cut from, in pixels.
        masks: predict masks too.
    """

    def __init__(
        self, last: nn.Module, channels: int, classes: int, stride: int, schedule: DetectionSchedule, masks: bool
    ) -> None:
        super().__init__(
            box_roi_pool=None,
            box_head=None,
            box_predictor=FastRCNNPredictor(channels, classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=schedule.rois,
            positive_fraction=0.25,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
        )
        self.last, self.masks = last, MaskRCNNPredictor(channels, _MASK_WIDTH, classes) if masks else None
        self._scale, self._pool = 1 / stride, schedule.pool
        # The initial weights are those of Detectron2.
        nn.init.normal_(self.box_predictor.cls_score.weight, std=0.01)
        nn.init.normal_(self.box_predictor.bbox_pred.weight, std=0.001)
        for layer in (self.box_predictor.cls_score, self.box_predictor.bbox_pred):
            nn.init.zeros_(layer.bias)
        if self.masks is not None:
            nn.init.normal_(self.masks.mask_fcn_logits.weight, std=0.001)

    def has_mask(self) -> bool:
        return self.masks is not None

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return losses in train mode; in eval mode boxes, scores, labels from 1, and masks [N, 1, M, M] per image.

        Raises:
            Diverged: in eval mode, the scores or boxes are not finite.
        """
        if self.training:
            return [], self._losses(features["0"], proposals, targets)
        logits, regression = self.box_predictor(self._region_maps(features["0"], proposals).mean((2, 3)))
        require_finite(logits, "scores of boxes")
        require_finite(regression, "boxes")
        boxes, scores, labels = self.postprocess_detections(logits, regression, proposals, image_shapes)
        detections = [{"boxes": b, "scores": s, "labels": n} for b, s, n in zip(boxes, scores, labels, strict=True)]
        if self.masks is not None:
            probabilities = maskrcnn_inference(self.masks(self._region_maps(features["0"], boxes)), labels)
            for detected, masks in zip(detections, probabilities, strict=True):
                detected["masks"] = masks
        return detections, {}

    def _losses(
        self, features: Tensor, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None
    ) -> dict[str, Tensor]:
        assert targets is not None
        # Sample regions, and classify them by their pooled features.
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        maps = self._region_maps(features, proposals)
        logits, regression = self.box_predictor(maps.mean((2, 3)))
        classification, box = fastrcnn_loss(logits, regression, labels, regression_targets)
        losses = {"loss_classifier": classification, "loss_box_reg": box}
        # The mask loss looks only at regions with an object.
        if self.masks is not None:
            positive = [torch.where(of_image > 0)[0] for of_image in labels]
            losses["loss_mask"] = maskrcnn_loss(
                self.masks(maps[torch.cat(labels) > 0]),
                [p[kept] for p, kept in zip(proposals, positive, strict=True)],
                [t["masks"] for t in targets],
                [t["labels"] for t in targets],
                [m[kept] for m, kept in zip(matched, positive, strict=True)],
            )
        return losses

    def _region_maps(self, features: Tensor, boxes: list[Tensor]) -> Tensor:
        """Return the last stage's maps of all boxes."""
        pooled = roi_align(features, boxes, self._pool, self._scale, sampling_ratio=0, aligned=True)  # ROIAlignV2
        maps: Tensor = self.last(pooled)
        return maps


class RCNN(nn.Module):
    """Images, normalised and resized -> losses in train mode, detections in pixels of these images in eval mode.

    ``schedule.norm`` and ``schedule.freeze`` stay in force after every ``train()``.

    Args:
        encoder: used in place.
        classes: without the background.
        masks: Mask R-CNN, not Faster R-CNN.
    """

    def __init__(self, encoder: nn.Module, classes: int, schedule: DetectionSchedule, *, masks: bool) -> None:
        super().__init__()
        # The first three stages serve the whole image.
        stem, stages = split_stages(encoder)
        self._stride = stage_strides(stem, stages)[2]
        self._schedule = schedule
        self.backbone = nn.Sequential(stem, *stages[:3])
        # The proposal network works on the maps of the third stage.
        anchors = AnchorGenerator((schedule.anchors,), (_RATIOS,))
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(out_channels(stages[2]), len(schedule.anchors) * len(_RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": schedule.proposals_before[0], "testing": schedule.proposals_before[1]},
            post_nms_top_n={"training": schedule.proposals[0], "testing": schedule.proposals[1]},
            nms_thresh=0.7,
        )
        # MoCo's Res5ROIHeadsExtraNorm: a fine-tuned stage needs one more norm where the classifier begins
        channels = out_channels(stages[3])
        last = nn.Sequential(stages[3], nn.BatchNorm2d(channels)) if schedule.norm == "batch" else stages[3]
        self.heads = C4Heads(last, channels, classes + 1, self._stride, schedule, masks)
        # The schedule says which parts stay fixed.
        if schedule.freeze == "trunk":
            self.backbone.requires_grad_(False)
        if schedule.norm == "frozen":
            for module in (self.backbone, self.heads.last):
                for part in module.modules():
                    if isinstance(part, nn.modules.batchnorm._BatchNorm):
                        part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> RCNN:
        super().train(mode)
        if self._schedule.freeze == "trunk" or self._schedule.norm == "frozen":
            freeze_bn_stats(self.backbone)
        if self._schedule.norm == "frozen":
            freeze_bn_stats(self.heads.last)
        return self

    def forward(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections (eval mode) and named losses (train mode).

        Args:
            images: float [3, H, W] each.
            targets: ``boxes`` [N, 4], ``labels`` [N] from 1, and ``masks`` [N, H, W] where they are trained.
        """
        shapes = [(int(i.shape[-2]), int(i.shape[-1])) for i in images]
        # torchvision's anchors divide the padded size by the map's: it must divide evenly
        height, width = (-(-max(s[d] for s in shapes) // self._stride) * self._stride for d in (0, 1))
        batch = torch.stack([F.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2])) for i in images])
        features = {"0": self.backbone(batch)}
        if not self.training:
            require_finite(features["0"], "features")
        proposals, losses = self.rpn(ImageList(batch, shapes), features, targets)
        detections, head_losses = self.heads(features, proposals, shapes, targets)
        return detections, {**losses, **head_losses}
