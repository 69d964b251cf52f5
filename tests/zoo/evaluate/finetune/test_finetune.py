"""Fine-tuning: it fits, it holds out what it says, and a second run finds the finished parts of the first."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, picture

from zoo.datasets.labelled import LabelledImages, hold_out, open_splits, stratified_split
from zoo.errors import UserError
from zoo.evaluate.errors import Diverged
from zoo.evaluate.finetune import finetune, semi_supervised, transfer
from zoo.evaluate.random_crops import epoch_batches
from zoo.evaluate.run import evaluate
from zoo.inference.embedder import Embedder


@given(labels=st.lists(st.integers(0, 5), min_size=2, max_size=60), fraction=st.floats(0.05, 0.9))
def test_parts_are_of_every_class_and_leave_the_rest(labels: list[int], fraction: float) -> None:
    array = np.array(labels, np.int64)
    chosen, rest = stratified_split(array, fraction, 0)
    assert sorted([*chosen, *rest]) == list(range(len(labels)))
    assert set(array[chosen]) == set(labels)
    if np.bincount(array).max() > 1:
        kept, held = hold_out(array, fraction, 0)
        assert sorted([*kept, *held]) == list(range(len(labels)))
        assert set(array[kept]) == set(labels)  # a class with one image is trained on
    else:
        with pytest.raises(UserError, match="one image"):
            hold_out(array, fraction, 0)


def test_fine_tuning_can_overfit_64_real_images(tiles: Path, narrow: Embedder) -> None:
    train = open_splits(tiles).train
    assert len(train) == 64
    recipe = finetune.FinetuneRecipe(40, 64, 0.05, weight_decay=1e-4, bn_momentum=0.3, min_area=0.9)
    before = narrow.model.state_dict()["conv1.weight"].clone()
    model = finetune.finetune(narrow, train, recipe, seed=0)
    answers = finetune.predict_logits(model, train, narrow.preprocessing, "cpu").argmax(1)
    assert (answers == train.labels).mean() >= 0.98
    assert (narrow.model.state_dict()["conv1.weight"] == before).all()  # a copy was trained
    assert (model.state_dict()["0.conv1.weight"] != before).any()  # in all layers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "settings"),
    [
        ("transfer", {"mode": "fine-tuned", "lr": "0.02", "steps": "150", "batch": "32"}),
        ("semi-supervised", {"percent": "100", "lr": "0.02", "epochs": "75", "batch": "32", "seeds": "1"}),
    ],
)
def test_each_protocol_can_learn_arbitrary_labels_of_64_real_images(
    protocol: str, settings: dict[str, str], tiles: Path, tiny_weights: str, cache: Path, tmp_path: Path
) -> None:
    """Nothing in the images tells the labels: only learning them by heart scores."""
    files = sorted((tiles / "train").rglob("*.png"))
    assert len(files) == 64
    for file, label in zip(files, np.random.default_rng(0).permutation(64) % 4, strict=True):
        for split in ("train", "test"):
            target = tmp_path / "data" / split / f"c{label}" / f"{file.parent.name}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    result = evaluate(protocol, tiny_weights, tmp_path / "data", settings={**settings, "min_area": "0.9"})
    assert result["score"] >= 95


def test_several_labels_an_image_can_be_overfitted(tiles: Path, narrow: Embedder) -> None:
    train = open_splits(tiles).train
    several = np.eye(4, dtype=np.int64)[train.labels]
    several[:, 3] = np.where(np.arange(64) % 2, several[:, 3], -1)  # not judged
    data = LabelledImages(train.name, several, train.classes, train.get, "several")
    recipe = finetune.FinetuneRecipe(40, 64, 0.05, bn_momentum=0.3, min_area=0.9)
    model = finetune.finetune(narrow, data, recipe, seed=0)
    scores = finetune.predict_logits(model, data, narrow.preprocessing, "cpu")
    assert ((scores > 0) == (several == 1))[several >= 0].mean() > 0.98


def test_a_learning_rate_that_overflows_is_named(tiles: Path, narrow: Embedder) -> None:
    with pytest.raises(Diverged, match="lr 1e"):
        finetune.finetune(narrow, open_splits(tiles).train, finetune.FinetuneRecipe(9, 16, 1e30), seed=0)


def test_a_head_that_is_too_small_is_refused(tiles: Path, narrow: Embedder) -> None:
    train = open_splits(tiles).train
    wrong = LabelledImages(train.name, train.labels, train.classes[:2], train.get, train.sha256)
    with pytest.raises(UserError, match="label 3 and 2 classes"):
        finetune.finetune(narrow, wrong, finetune.FinetuneRecipe(1, 4, 0.1), seed=0)


SETTINGS = {"percent": "25,50", "lr": "0.05,1e30", "epochs": "1", "batch": "16", "seeds": "2"}


@pytest.fixture
def stops_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets so many fine-tunings run, then interrupts as Ctrl-C would."""

    def limit(count: int) -> None:
        real, left = finetune.finetune, iter(range(count))

        def limited(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(semi_supervised, "finetune", limited)

    return limit


def test_semi_supervised_goes_on_after_a_kill(
    tiles: Path, tiny_weights: str, cache: Path, tmp_path: Path, stops_after: Any
) -> None:
    out = tmp_path / "semi.json"
    stops_after(3)
    with pytest.raises(KeyboardInterrupt):
        evaluate("semi-supervised", tiny_weights, tiles, out=out, settings=SETTINGS)
    assert not out.exists()
    stops_after(5)  # 2 of the grid and 2 seeds at two fractions are 8
    result = evaluate("semi-supervised", tiny_weights, tiles, out=out, settings=SETTINGS)
    stops_after(0)
    assert evaluate("semi-supervised", tiny_weights, tiles, settings=SETTINGS)["score"] == result["score"]
    assert json.loads(out.read_text()) == result
    assert result["metric"] == "top-1 at 25 % of the labels"
    assert result["parameters"]["25 %"]["lr"] == 0.05
    assert result["parameters"]["25 %"]["held_out_accuracy"]["lr 1e+30, 1 epochs"] is None  # it diverged
    assert result["parameters"]["seeds"] == {"number": 2, "published": "[B] does not state a number"}
    assert result["parameters"]["chosen_by"]["50 %"].startswith("a fifth of the labelled images")
    first, second = result["details"]["fractions"]
    assert (first["images"], second["images"]) == (16, 32)
    assert result["score"] == pytest.approx(np.mean(first["top1"]), abs=0.01)
    assert result["metrics"]["spread at 50 %"] == pytest.approx(np.std(second["top1"], ddof=1), abs=1e-3)


def test_a_value_given_twice_does_not_shift_the_choice(
    tiles: Path, tiny_weights: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose text is the same: the best cell is chosen, not the one at its place among the different texts."""

    def scored(*args: Any) -> semi_supervised.Accuracies:
        lr = args[4]
        tried.append(lr)
        return {"top1": {0.01: 20.0, 0.05: 90.0}.get(lr, 30.0), "top5": None}

    tried: list[float] = []
    monkeypatch.setattr(semi_supervised, "_finetune_and_score", scored)
    for lrs in ("0.01,0.01,0.05,0.02", "0.01,0.0100000001,0.05"):
        settings = {"percent": "50", "lr": lrs, "epochs": "1", "seeds": "1"}
        found = evaluate("semi-supervised", tiny_weights, tiles, settings=settings)
        assert found["parameters"]["50 %"]["lr"] == tried[-1] == 0.05
    finetuned: list[float] = []

    def finetune_(embedder: Embedder, data: LabelledImages, recipe: finetune.FinetuneRecipe, *, seed: int) -> float:
        finetuned.append(recipe.lr)
        return recipe.lr

    def logits(model: Any, data: LabelledImages, *others: Any) -> Any:
        right = np.eye(len(data.classes), dtype=np.float32)[data.labels]
        return right if model == 0.05 else -right

    monkeypatch.setattr(transfer, "finetune", finetune_)
    monkeypatch.setattr(transfer, "predict_logits", logits)
    settings = {"mode": "fine-tuned", "steps": "1", "lr": "0.01,0.01,0.05,0.02"}
    found = evaluate("transfer", tiny_weights, tiles, settings=settings)
    assert found["parameters"]["lr"] == finetuned[-1] == 0.05


def test_published_lists_name_the_images(tiles: Path, tmp_path: Path) -> None:
    train = open_splits(tiles).train
    with pytest.raises(UserError, match="imagenet_subsets"):
        semi_supervised.labelled_subset(train, 1, 0, tmp_path)
    unique = LabelledImages(train.name, train.labels, train.classes, train.get, "x", lambda i: f"c/{i}.png")
    (tmp_path / "1percent.txt").write_text("7.png\n3.png\n")
    part = semi_supervised.labelled_subset(unique, 1, 0, tmp_path)
    assert part.labels.tolist() == train.labels[[7, 3]].tolist()
    (tmp_path / "10percent.txt").write_text("7.png\nn01440764_10026.JPEG\n")
    with pytest.raises(UserError, match=r"lacks 1 of the 2 files of 10percent.txt: n01440764_10026.JPEG"):
        semi_supervised.labelled_subset(unique, 10, 0, tmp_path)


def test_a_large_data_set_validates_outside_the_labelled_part(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[B] app. C.1's local validation set; a small one holds out a fifth of the labelled images."""
    train = open_splits(tiles).train
    labelled = set(semi_supervised.labelled_rows(train, 50, 0, None).tolist())
    kept, held, rule = semi_supervised.selection_split(train, 50, 0, None)
    assert (len(kept), len(held)) == (24, 8)
    assert rule.startswith("a fifth of the labelled images")
    monkeypatch.setattr(semi_supervised, "HELD_OUT", 6)
    kept, held, rule = semi_supervised.selection_split(train, 50, 0, None)
    assert (len(kept), len(held)) == (32, 6)
    assert rule.startswith("6 training images outside the labelled part")
    own = [train.image(row).tobytes() for row in sorted(labelled)]
    assert [kept.image(row).tobytes() for row in range(len(kept))] == own
    assert not {held.image(row).tobytes() for row in range(len(held))} & set(own)
    assert semi_supervised.selection_split(train, 50, 0, None)[1].sha256 == held.sha256
    _, held, rule = semi_supervised.selection_split(train, 100, 0, None)  # nothing is outside
    assert rule.startswith("a fifth")


@pytest.mark.parametrize(
    ("images", "batch", "of_an_epoch"),
    [
        (95, 64, 2),
        (65, 64, 1),
        (129, 64, 2),
        (150, 64, 3),
        (40, 64, 1),
        (493, 64, 8),
        (5000, 64, 78),
        (12_811, 1024, 13),
        (128_116, 1024, 125),
    ],
)
def test_an_epoch_has_all_its_batches(
    images: int, batch: int, of_an_epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 epochs of 95 images were 30 steps, in which each image came 15 times."""
    made: list[finetune.FinetuneRecipe] = []

    def record(embedder: object, train: object, recipe: finetune.FinetuneRecipe, **others: object) -> None:
        made.append(recipe)
        raise Diverged("enough")

    monkeypatch.setattr(semi_supervised, "finetune", record)
    part = SimpleNamespace(read=lambda: None, write=lambda value: None)
    context = SimpleNamespace(cached_part=lambda *key: part, embedder=None)
    labelled = LabelledImages("made", np.zeros(images, np.int64), ["a"], lambda row: None, "")  # type: ignore[arg-type]
    options = semi_supervised.SemiSupervisedOptions(batch=batch)
    semi_supervised._finetune_and_score(context, labelled, labelled, options, 0.1, 30, 0)  # type: ignore[arg-type]
    assert made[0].steps == 30 * of_an_epoch
    if images < 10 * batch:
        assert len(epoch_batches(images, made[0].batch, 0, 0)) == of_an_epoch


def test_the_grids_are_the_papers() -> None:
    grid = semi_supervised.GRIDS["published"]
    assert (grid.lr, grid.epochs, grid.batch) == ((0.01, 0.02, 0.05, 0.1, 0.005), (30, 50), 1024)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": "huge"}, "none of auto, published, small"),
        ({"percent": "0"}, "above 0"),
        ({"epochs": "many"}, "is no int"),
    ],
)
def test_a_wrong_option_is_one_line(
    settings: dict[str, str], message: str, tiles: Path, tiny_weights: str, cache: Path
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate("semi-supervised", tiny_weights, tiles, settings=settings)


def test_gray_and_corrupt_images(tmp_path: Path, tiny_weights: str, cache: Path) -> None:
    for split in ("train", "test"):
        for n in range(6):
            path = tmp_path / "data" / split / f"c{n % 2}" / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(picture(seed=n).convert("L"), "PNG"))
    settings = {"mode": "fine-tuned", "steps": "2", "lr": "0.01", "batch": "4"}
    assert evaluate("transfer", tiny_weights, tmp_path / "data", settings=settings)["metric"] == "top-1"
    (tmp_path / "data" / "train" / "c0" / "0.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(UserError, match=r"c0/0\.png cannot be read"):
        evaluate("transfer", tiny_weights, tmp_path / "data", settings=settings)
