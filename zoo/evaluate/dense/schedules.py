"""The protocols as data: a frozen dataclass per task, a literal table of named schedules, a source per number.

[B] is the BYOL paper (arXiv 2006.07733), [S] SimSiam (2011.10566), D2 the MoCo repository's Detectron2 configurations
(facebookresearch/moco, ``detection/configs``) and Detectron2's defaults underneath them. Names that begin with
``small`` are ours, for a few cores and small images: no published number is comparable with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from zoo.errors import UserError

T = TypeVar("T")


def _require_positive(protocol: object, *names: str) -> None:
    for name in names:
        value = getattr(protocol, name)
        each = value if isinstance(value, tuple) else (value,)
        if not each or not all(v > 0 for v in each):  # NaN is none
            raise UserError(f"{name} must be above 0, not {value}")


def _require_two(protocol: object, *names: str) -> None:
    for name in names:
        if len(getattr(protocol, name)) != 2:
            raise UserError(f"{name} takes two numbers with a comma between them")


@dataclass(frozen=True)
class Segmentation:
    """FCN with dilation; [B] D.4 after MoCo (arXiv 1911.05722, appendix).

    Attributes:
        crop: side of the training crop, pixels; the network sees whole images at the test.
        short_side: what the short side becomes before anything else, 0 leaves images as they are.
        scale: the random resizing before the crop.
        lrs: tried one by one; the best on the validation split is tested.
        drops: fractions of ``iterations`` after which the learning rate is a tenth.
        seeds: how many runs are averaged.
        void: label id that is neither trained nor scored; 255 never is.
        train: list of a VOC devkit, without meaning for folders.
    """

    iterations: int = 30_000  # [B] D.4, as all of the next
    batch_size: int = 16
    crop: int = 513
    scale: tuple[float, float] = (0.5, 2.0)
    lrs: tuple[float, ...] = (1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1)
    drops: tuple[float, ...] = (0.7, 0.9)
    weight_decay: float = 1e-4
    seeds: int = 5
    momentum: float = 0.9  # MoCo's appendix; [B] does not give it
    flip: float = 0.5  # MoCo's appendix
    width: int = 256
    dilation: int = 6
    short_side: int = 0
    void: int = 255
    train: str = "train_aug"  # MoCo's appendix: train_aug2012, tested on val2012

    def __post_init__(self) -> None:
        _require_positive(self, "iterations", "batch_size", "crop", "lrs", "seeds", "width", "dilation", "scale")
        _require_two(self, "scale")


SEGMENTATION: Mapping[str, Segmentation] = {
    "byol": Segmentation(),
    "small": Segmentation(
        iterations=240,
        batch_size=8,
        crop=112,
        scale=(0.75, 1.5),
        lrs=(10**-1.5, 1e-1),
        seeds=1,
        short_side=112,
        width=128,
        dilation=2,
        train="train",
    ),
}


@dataclass(frozen=True)
class Depth:
    """Up-projection decoder on the last stage, berHu loss ([B] D.6, after Laina et al., arXiv 1606.00373).

    Attributes:
        crop: width and height of the centre crop, pixels.
        short_side: what the short side becomes before the crop.
        unit: value of the 16-bit image per metre.
        decoder: channels of the up-projection blocks.
    """

    iterations: int = 7_500  # [B] D.6, as all of the next
    batch_size: int = 256
    crop: tuple[int, int] = (304, 228)
    decoder: tuple[int, ...] = (512, 256, 128, 64)
    lrs: tuple[float, ...] = (0.16,)
    weight_decay: float = 5e-4
    short_side: int = 240  # Laina et al. 4.1: 640 x 480 to half its size, then the centre crop
    momentum: float = 0.9  # Laina et al.; [B] does not give it
    drops: tuple[float, ...] = ()  # [B] gives one learning rate
    flip: float = 0.5  # Laina et al.; of [B]'s colour changes nothing could be verified, and none is made
    unit: float = 1000.0
    seeds: int = 1

    def __post_init__(self) -> None:
        _require_positive(self, "iterations", "batch_size", "crop", "decoder", "lrs", "seeds", "short_side", "unit")
        _require_two(self, "crop")


DEPTH: Mapping[str, Depth] = {
    "byol": Depth(),
    "small": Depth(
        iterations=120,
        batch_size=4,
        crop=(152, 114),
        decoder=(128, 64, 32, 16),
        lrs=(0.02,),
        short_side=120,
        drops=(0.7, 0.9),
    ),
}


@dataclass(frozen=True)
class Detection:
    """Faster or Mask R-CNN with the C4 head.

    What torchvision's parts do differently from Detectron2's: smooth l1 with beta 1/9 instead of l1, and anchors
    rounded to whole pixels.

    Attributes:
        sizes: short side (``edge`` short) or long side (``edge`` long) in training, one drawn per image.
        test_size, max_size: short side at the test, and the most the long side may have.
        drops: iterations after which the learning rate is a tenth.
        warmup: iterations of linear warm-up, from a thousandth.
        norm: ``batch``: all batch norms fine-tuned, one more after the last stage (``Res5ROIHeadsExtraNorm``);
            over one process that sees the whole batch this is SyncBN. ``frozen``: stored statistics, scale and
            shift fixed.
        freeze: ``none``; ``trunk``: stem to third stage fixed, the last stage and the heads are trained.
        precise: batches over which batch statistics are computed again before the test.
        anchors, pool: sides of the anchors, and of the RoI's map before the last stage.
        rois: sampled per image in training; ``proposals`` train and test, after non-maximum suppression.
        years: of a VOC devkit: training years; the test is always 2007's.
        masks: instance masks too, where the annotations have them.
    """

    iterations: int
    drops: tuple[int, ...]
    sizes: tuple[int, ...]
    test_size: int = 800  # D2, as all of the next
    max_size: int = 1333
    batch_size: int = 16
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: int = 1000
    flip: float = 0.5
    norm: str = "batch"
    freeze: str = "none"
    precise: int = 200
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    pool: int = 14
    rois: int = 512
    proposals_before: tuple[int, int] = (12_000, 6_000)
    proposals: tuple[int, int] = (2_000, 1_000)
    years: tuple[int, ...] = (2007,)
    masks: bool = True
    edge: str = "short"

    def __post_init__(self) -> None:
        _require_positive(
            self, "iterations", "batch_size", "sizes", "test_size", "max_size", "lr", "anchors", "pool", "rois",
            "proposals_before", "proposals", "years",
        )  # fmt: skip
        _require_two(self, "proposals_before", "proposals")
        for name, known in (("norm", ("batch", "frozen")), ("freeze", ("none", "trunk")), ("edge", ("short", "long"))):
            if getattr(self, name) not in known:
                raise UserError(f"{name}: {getattr(self, name)!r} is none of {', '.join(known)}")


_VOC_SIZES = tuple(range(480, 801, 32))
_COCO_SIZES = tuple(range(640, 801, 32))
DETECTION: Mapping[str, Detection] = {
    # D2: pascal_voc_R_50_C4_24k.yaml
    "voc0712-24k": Detection(24_000, (18_000, 22_000), _VOC_SIZES, warmup=100, years=(2007, 2012)),
    # the same iterations on 2007 alone, whose schedule [S] table 5 does not state
    "voc07-24k": Detection(24_000, (18_000, 22_000), _VOC_SIZES, warmup=100),
    # Detectron2's 1x, which [S] table 5 uses; D2: coco_R_50_C4_2x.yaml
    "coco-1x": Detection(90_000, (60_000, 80_000), _COCO_SIZES),
    "coco-2x": Detection(180_000, (120_000, 160_000), _COCO_SIZES),
    # [B] D.5 freezes the representation and trains 1.5 M asynchronous steps, which nobody can repeat: its longest
    # edges and frozen network on the 24k iterations. 77.5 is not to be expected.
    "voc07-frozen-24k": Detection(
        24_000, (18_000, 22_000), tuple(range(480, 1025, 32)), 1024, 1024, warmup=100, norm="frozen", freeze="trunk",
        precise=0, edge="long",
    ),
    "small": Detection(
        240, (170, 215), (144, 160, 176), 160, 320, batch_size=2, lr=0.01, warmup=20, precise=20,
        anchors=(12, 24, 48, 96), pool=8, rois=32, proposals_before=(400, 300), proposals=(150, 60),
    ),
    "small-frozen": Detection(
        240, (170, 215), (144, 160, 176), 160, 320, batch_size=2, lr=0.01, warmup=20, norm="frozen", freeze="trunk",
        precise=0, anchors=(12, 24, 48, 96), pool=8, rois=32, proposals_before=(400, 300), proposals=(150, 60),
    ),
}  # fmt: skip


def find(table: Mapping[str, T], name: str | None, default: str) -> T:
    """The schedule of this name, ``default`` where none was given. UserError: an unknown one; all are named."""
    if name is not None and name not in table:
        raise UserError(f"no schedule {name!r}: one of {', '.join(table)}")
    return table[name or default]
