"""The protocols' constants, and settings that make no sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from zoo.errors import UserError
from zoo.evaluate.context import Context
from zoo.evaluate.dense.finetune import SgdConfig
from zoo.evaluate.dense.schedules import DEPTH, DETECTION, SEGMENTATION, find_schedule, stored_options
from zoo.evaluate.dense.sweep import sgd_config
from zoo.evaluate.detection import training
from zoo.evaluate.run import evaluate


def test_the_published_constants() -> None:
    """[B] D.4 and D.6, and the configurations of the MoCo repository."""
    byol = SEGMENTATION["byol"]
    assert sgd_config(byol, 0.1).drops == (21_000, 27_000)
    assert byol.lrs == pytest.approx((0.001, 0.00316, 0.01, 0.0316, 0.1), rel=1e-2)
    assert (byol.crop, byol.batch_size, byol.weight_decay, byol.seeds) == (513, 16, 1e-4, 5)
    depth = DEPTH["byol"]
    assert (depth.crop, depth.decoder, depth.lrs, depth.weight_decay) == (
        (304, 228),
        (512, 256, 128, 64),
        (0.16,),
        5e-4,
    )
    assert (depth.iterations, depth.batch_size) == (7_500, 256)
    assert (depth.grayscale, depth.brightness, depth.saturation, depth.hue) == (0.3, 0.1255, (0.5, 1.5), 0.2)
    assert {name for name, schedule in DETECTION.items() if not schedule.flip} == {"voc07-frozen-24k", "small-frozen"}
    assert {name for name, schedule in DETECTION.items() if schedule.trials == 5} == {
        "voc0712-24k", "voc07-24k", "voc07-frozen-24k",
    }  # fmt: skip
    assert {schedule.trials for schedule in DETECTION.values()} == {1, 5}
    assert not any(schedule.lrs for schedule in DETECTION.values())  # lr alone
    assert {name for name, schedule in DETECTION.items() if schedule.decay_norms} == {"small", "small-frozen"}
    voc, coco = DETECTION["voc0712-24k"], DETECTION["coco-1x"]
    assert (voc.iterations, voc.drops, voc.warmup, voc.years) == (24_000, (18_000, 22_000), 100, (2007, 2012))
    assert (voc.sizes[0], voc.sizes[-1], len(voc.sizes), coco.sizes[0], len(coco.sizes)) == (480, 800, 11, 640, 6)
    assert (coco.iterations, coco.drops, coco.warmup) == (90_000, (60_000, 80_000), 1000)
    assert (coco.batch_size, coco.lr, coco.weight_decay, coco.precise) == (16, 0.02, 1e-4, 200)


def test_schedules_that_decay_norms_are_stored_as_before() -> None:
    """Results and finished parts of earlier versions, which decayed them always, say nothing of it."""
    assert "decay_norms" not in stored_options(DETECTION["small"])
    assert stored_options(DETECTION["coco-1x"])["decay_norms"] is False


def test_the_schedule_s_decay_reaches_the_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[SgdConfig] = []
    monkeypatch.setattr(training, "run_sgd", lambda model, config, *others, **options: used.append(config) or [])
    network = nn.Module()
    network.heads = SimpleNamespace(has_mask=lambda: False)  # type: ignore[assignment]
    for name in ("small", "coco-1x"):
        schedule = replace(DETECTION[name], precise=0)
        training.train_network(network, None, schedule, None, seed=0, key=0, device="cpu")  # type: ignore[arg-type]
    assert [config.decay_norms for config in used] == [True, False]


@pytest.mark.parametrize(
    ("schedule", "change"),
    [
        (SEGMENTATION["small"], {"iterations": 0}),
        (SEGMENTATION["small"], {"lrs": ()}),
        (SEGMENTATION["small"], {"lrs": (0.1, -1.0)}),
        (SEGMENTATION["small"], {"scale": (1.0,)}),
        (DEPTH["small"], {"crop": (32,)}),
        (DEPTH["small"], {"unit": float("nan")}),
        (DETECTION["small"], {"proposals": (10, 10, 10)}),
        (DETECTION["small"], {"freeze": "some"}),
        (DETECTION["small"], {"trials": 0}),
        (DETECTION["small"], {"lrs": (0.1, 0.0)}),
        (DEPTH["byol"], {"grayscale": 1.5}),
        (DEPTH["byol"], {"hue": -0.1}),
        (DEPTH["byol"], {"saturation": (1.5, 0.5)}),
    ],
)
def test_settings_without_a_meaning_are_refused(schedule: object, change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        replace(schedule, **change)  # type: ignore[type-var]


def test_the_command_s_settings_reach_the_schedule() -> None:
    context = Context("segment", "random", Path("x"), settings={"lrs": "0.1,0.2", "void": "11", "train": "train"})
    schedule = context.options(find_schedule(SEGMENTATION, "small", "byol"))
    assert (schedule.lrs, schedule.void, schedule.train) == ((0.1, 0.2), 11, "train")
    context = Context("depth", "random", Path("x"), settings={"drops": "0.5"})
    assert context.options(find_schedule(DEPTH, None, "byol")).drops == (0.5,)


def test_other_protocols_have_no_schedules(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="knn has no schedules"):
        evaluate("knn", "random", tmp_path, schedule="small")
