"""The schedules of ``detect``, ``segment`` and ``depth`` as data: a frozen dataclass per task, a source per number.

[B] is the BYOL paper (arXiv 2006.07733), [S] SimSiam (arXiv 2011.10566), D2 the Detectron2 configurations of the MoCo
repository (facebookresearch/moco, ``detection/configs``) with Detectron2's defaults underneath. Schedules whose name
begins with ``small`` are ours, for a few cores and small images: no published number is comparable with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from zoo.errors import UserError

T = TypeVar("T")


def _require_positive(schedule: object, *names: str) -> None:
    for name in names:
        value = getattr(schedule, name)
        each = value if isinstance(value, tuple) else (value,)
        if not each or not all(v > 0 for v in each):  # false for NaN too
            raise UserError(f"{name} must be above 0, not {value}")


def _require_two(schedule: object, *names: str) -> None:
    for name in names:
        if len(getattr(schedule, name)) != 2:
            raise UserError(f"{name} takes two numbers with a comma between them")


@dataclass(frozen=True)
class SegmentationSchedule:
    """FCN with dilation: [B] app. D.4 after MoCo (arXiv 1911.05722, appendix).

    Attributes:
        crop: side of the training crop in pixels; whole images are tested.
        scale: range of the random resizing before the crop.
        lrs: learning rates; the best on the validation split is tested.
        drops: fractions of ``iterations`` after which the learning rate falls to a tenth.
        seeds: number of runs that are averaged.
        width, dilation: channels and dilation of the head's 3x3 convolutions.
        short_side: pixels of the short side that images are resized to first; 0 leaves them as they are.
        void: label id that is neither trained nor scored; 255 never is either.
        train: training list of a VOC devkit; ignored for folders.
    """

    iterations: int = 30_000  # [B] app. D.4, as the lines below
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


SEGMENTATION: Mapping[str, SegmentationSchedule] = {
    "byol": SegmentationSchedule(),
    "small": SegmentationSchedule(
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
class DepthSchedule:
    """Up-projection decoder on the last stage, berHu loss: [B] app. D.6 after Laina et al. (arXiv 1606.00373).

    Attributes:
        crop: width and height of the centre crop in pixels.
        decoder: channels of the up-projection blocks.
        short_side: pixels of the short side that images are resized to before the crop.
        grayscale: probability that a training image becomes gray.
        brightness: largest number that is added to a training image of values in 0..1, or subtracted.
        saturation: range of the factor of the saturation (HSV).
        hue: largest change of the hue, in turns, to either side.
        unit: value of the 16-bit depth image that stands for one metre.
    """

    iterations: int = 7_500  # [B] app. D.6, as the lines below
    batch_size: int = 256
    crop: tuple[int, int] = (304, 228)
    decoder: tuple[int, ...] = (512, 256, 128, 64)
    lrs: tuple[float, ...] = (0.16,)
    weight_decay: float = 5e-4
    short_side: int = 240  # Laina et al. 4.1: 640 x 480 to half its size, then the centre crop
    momentum: float = 0.9  # Laina et al.; [B] does not give it
    drops: tuple[float, ...] = ()  # [B] gives one learning rate
    flip: float = 0.5  # [B] app. D.6 flips too; the probability is Laina et al.'s
    grayscale: float = 0.3  # [B] app. D.6, as the lines below; it prints no units, these are tf.image's
    brightness: float = 0.1255
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 0.2
    unit: float = 1000.0
    seeds: int = 1

    def __post_init__(self) -> None:
        _require_positive(self, "iterations", "batch_size", "crop", "decoder", "lrs", "seeds", "short_side", "unit")
        _require_two(self, "crop", "saturation")
        for name, largest in (("grayscale", 1.0), ("brightness", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= largest:
                raise UserError(f"{name} must be in 0..{largest:g}, not {getattr(self, name)}")
        if not 0 <= self.saturation[0] <= self.saturation[1]:
            raise UserError(f"saturation takes two factors from 0 on, the smaller one first, not {self.saturation}")


DEPTH: Mapping[str, DepthSchedule] = {
    "byol": DepthSchedule(),
    "small": DepthSchedule(
        iterations=120,
        batch_size=4,
        crop=(152, 114),
        decoder=(128, 64, 32, 16),
        lrs=(0.02,),
        short_side=120,
        drops=(0.7, 0.9),
        grayscale=0.0,  # no changes of colour
        brightness=0.0,
        saturation=(1.0, 1.0),
        hue=0.0,
    ),
}


@dataclass(frozen=True)
class DetectionSchedule:
    """Faster or Mask R-CNN with the C4 head.

    torchvision's parts differ from Detectron2's in two points: smooth l1 with beta 1/9 instead of l1, and anchors
    rounded to whole pixels.

    Attributes:
        drops: iterations after which the learning rate falls to a tenth.
        sizes: short side (``edge`` short) or long side (``edge`` long) of a training image, one drawn per image.
        test_size, max_size: short (or long) side of a test image, and the largest long side.
        warmup: iterations of linear warm-up from a thousandth of the learning rate.
        decay_norms: weight decay on batch norms too; Detectron2 has none there (``SOLVER.WEIGHT_DECAY_NORM``).
        norm: ``batch`` fine-tunes all batch norms and adds one after the last stage (``Res5ROIHeadsExtraNorm``); one
            process sees the whole batch, so this is SyncBN. ``frozen`` keeps statistics, scale and shift.
        freeze: ``none``, or ``trunk`` to fix the stem and the first three stages.
        precise: batches over which the batch statistics are recomputed before the test.
        anchors: sides of the anchors in pixels.
        pool: side of an RoI's map before the last stage.
        rois: RoIs sampled per training image.
        proposals_before, proposals: proposals in training and at the test, before and after non-maximum suppression.
        years: training years of a VOC devkit; the test split is always that of 2007.
        masks: train and score instance masks if the annotations have them.
        edge: ``short`` or ``long``, the side that ``sizes`` and ``test_size`` give.
        lrs: learning rates to choose from on a held-out tenth of the training images; empty means ``lr`` alone, the
            published one. [S] table 5 searches it for each method, and prints neither the values nor the images.
        trials: number of trainings on all images, from different seeds, whose scores are averaged.
    """

    iterations: int
    drops: tuple[int, ...]
    sizes: tuple[int, ...]
    test_size: int = 800  # D2, as the lines below
    max_size: int = 1333
    batch_size: int = 16
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norms: bool = False
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
    lrs: tuple[float, ...] = ()
    trials: int = 1

    def __post_init__(self) -> None:
        _require_positive(
            self, "iterations", "batch_size", "sizes", "test_size", "max_size", "lr", "anchors", "pool", "rois",
            "proposals_before", "proposals", "years", "trials", *(["lrs"] if self.lrs else []),
        )  # fmt: skip
        _require_two(self, "proposals_before", "proposals")
        for name, known in (("norm", ("batch", "frozen")), ("freeze", ("none", "trunk")), ("edge", ("short", "long"))):
            if getattr(self, name) not in known:
                raise UserError(f"{name}: {getattr(self, name)!r} is none of {', '.join(known)}")


_VOC_SIZES = tuple(range(480, 801, 32))
_COCO_SIZES = tuple(range(640, 801, 32))
_VOC_TRIALS = 5  # [S] table 5 and MoCo's detection/README: VOC is the mean of five trials, COCO one run
DETECTION: Mapping[str, DetectionSchedule] = {
    # D2: pascal_voc_R_50_C4_24k.yaml
    "voc0712-24k": DetectionSchedule(
        24_000, (18_000, 22_000), _VOC_SIZES, warmup=100, years=(2007, 2012), trials=_VOC_TRIALS
    ),
    # the same iterations on 2007 alone; [S] table 5 does not state its schedule
    "voc07-24k": DetectionSchedule(24_000, (18_000, 22_000), _VOC_SIZES, warmup=100, trials=_VOC_TRIALS),
    # Detectron2's 1x, which [S] table 5 uses; D2: coco_R_50_C4_2x.yaml
    "coco-1x": DetectionSchedule(90_000, (60_000, 80_000), _COCO_SIZES),
    "coco-2x": DetectionSchedule(180_000, (120_000, 160_000), _COCO_SIZES),
    # [B] app. D.5 freezes the representation and trains 1.5 M asynchronous steps, which cannot be repeated: this is its
    # longest edges, "no other augmentation" and frozen network with the 24k iterations, which are ours; its AP50 of
    # 77.5 is not to be expected
    "voc07-frozen-24k": DetectionSchedule(
        24_000, (18_000, 22_000), tuple(range(480, 1025, 32)), 1024, 1024, warmup=100, flip=0.0,
        norm="frozen", freeze="trunk", precise=0, edge="long", trials=_VOC_TRIALS,
    ),
    "small": DetectionSchedule(
        240, (170, 215), (144, 160, 176), 160, 320, batch_size=2, lr=0.01, decay_norms=True, warmup=20, precise=20,
        anchors=(12, 24, 48, 96), pool=8, rois=32, proposals_before=(400, 300), proposals=(150, 60),
    ),
    "small-frozen": DetectionSchedule(
        240, (170, 215), (144, 160, 176), 160, 320, batch_size=2, lr=0.01, decay_norms=True, warmup=20, flip=0.0,
        norm="frozen", freeze="trunk", precise=0, anchors=(12, 24, 48, 96), pool=8, rois=32,
        proposals_before=(400, 300), proposals=(150, 60),
    ),
}  # fmt: skip


def stored_options(schedule: DetectionSchedule) -> dict[str, object]:
    """Return the fields by name, for results and for the names of finished parts.

    ``decay_norms`` came later: where norms decay, as they did before, it is left out.
    """
    options = asdict(schedule)
    if schedule.decay_norms:
        del options["decay_norms"]
    return options


def find_schedule(table: Mapping[str, T], name: str | None, default: str) -> T:
    """Return the schedule of this name, or ``default`` where none was given.

    Raises:
        UserError: an unknown name; the message lists the known ones.
    """
    if name is not None and name not in table:
        raise UserError(f"no schedule {name!r}: one of {', '.join(table)}")
    return table[name or default]
