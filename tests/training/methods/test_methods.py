"""What each method does beyond its golden outputs: hooks, queues, options; and the collapse where it is sure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import log, tiny
from torch import Tensor, nn

from training.engine.loop import train
from training.methods import BYOL, MoCoV2, SimCLR, SimSiam, StepInfo, Supervised, SwAV
from training.methods.sinkhorn import sinkhorn
from training.methods.split_batch_norm import split_batch_norm
from training.recipes.config import Heads, Objective
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder
from zoo.numerics.counter_rng import permutation


def info(step: int, tau: float = 0.9) -> StepInfo:
    return StepInfo(step, 10, step // 5, tau)


def rows(count: int, dim: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).double()


# ---------------------------------------------------------------- collapse


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_simsiam_collapses_without_the_stop_gradient_and_the_run_says_so(
    stop_gradient: bool, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """[S] section 4.1. BN on the outputs keeps their variance, so a batch of B collapses to a line: one image on one
    side and B - 1 on the other, with a loss of -(B - 2) / B, a spread of 2 / sqrt(B) and an effective rank of 1."""
    recipe = tiny(
        "simsiam",
        architecture="tiny10",
        objective=Objective(stop_gradient=stop_gradient),
        heads=Heads(hidden=16, out=32, projector_layers=2),
        optim={"lr": 4.0, "batch_size": 16, "epochs": 70},
        checkpoint_steps=1000,
    )
    recipe = replace(recipe, views=replace(recipe.views, size=24))
    train(recipe, open_dataset(labelled_folder), tmp_path, device="cpu")
    said = "have collapsed to a constant" in capsys.readouterr().err
    lines = log(tmp_path)
    assert said is not stop_gradient
    # over four seeds: 1.1 to 1.4 without the stop-gradient, 4.3 to 6.0 with it
    assert (min(line["effective_rank"] for line in lines if "effective_rank" in line) < 2) is not stop_gradient
    if not stop_gradient:
        assert min(line["spread"] for line in lines if "spread" in line) == pytest.approx(2 / 16**0.5, abs=0.1)
        assert min(line["loss"] for line in lines if "loss" in line) < -0.8


# ---------------------------------------------------------------- BYOL and SimCLR


def test_byol_with_beta_one_and_nothing_else_is_simclr() -> None:
    """[B] app. F.5: the loss is SimCLR's times 2 alpha; its positive part is 2 - 2 cos here, hence the 4."""
    torch.manual_seed(0)
    byol = BYOL(nn.Identity(), 6, hidden=8, out=5, predictor=False, target=False, beta=1, temperature=0.1).double()
    simclr = SimCLR(nn.Identity(), 6, temperature=0.1)
    v1, v2 = rows(7), rows(7, seed=1)
    h1, h2 = byol.projector(v1), byol.projector(v2)
    simclr.projector = nn.Sequential()
    ours = sum(byol([v1, v2]).values())
    theirs = simclr([h1, h2])["loss"]
    assert ours.item() == pytest.approx(4 + 2 * 0.1 * theirs.item(), rel=1e-12)


def test_byol_without_a_target_lets_gradients_into_both_sides() -> None:
    torch.manual_seed(0)
    model = BYOL(nn.Linear(6, 6), 6, hidden=8, out=5, target=False).double()
    assert "target_encoder.weight" not in model.state_dict()
    model.after_step(info(0))  # nothing to move
    with_target = BYOL(nn.Linear(6, 6), 6, hidden=8, out=5).double()
    with_target.load_state_dict(model.state_dict(), strict=False)
    with_target.after_step(info(0, tau=0.0))  # the target is the online network
    grads = []
    for m in (model, with_target):
        sum(m([rows(4), rows(4, seed=1)]).values()).backward()
        grads.append(m.encoder.weight.grad)
    assert not torch.allclose(*grads)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_target_moves_by_tau(beta: float) -> None:
    model = BYOL(nn.Linear(6, 6), 6, hidden=8, out=5, beta=beta)
    with torch.no_grad():
        model.encoder.weight.fill_(1.0)
        model.target_encoder.weight.fill_(0.0)
    model.after_step(info(0, tau=0.75))
    assert torch.allclose(model.target_encoder.weight, torch.full((6, 6), 0.25))


def test_bfloat16_does_not_round_the_similarities() -> None:
    """Under autocast the logits are still float32: at a temperature of .1 bfloat16's error would be some .05."""
    model = SimCLR(nn.Identity(), 6, temperature=0.1)
    model.projector = nn.Sequential()
    a, b = rows(8).float(), rows(8, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        half = model.logits(a, b)
    assert half.dtype == torch.float32
    assert torch.equal(half, model.logits(a, b))


@pytest.mark.parametrize("kind", [BYOL, SimSiam])
def test_bfloat16_does_not_round_the_loss(kind: type[BYOL | SimSiam]) -> None:
    """Of outputs that autocast rounded the loss is computed in float32, on the CPU too."""
    torch.manual_seed(0)
    model, views = kind(nn.Linear(6, 6), 6, hidden=8, out=5), [rows(8).float(), rows(8, seed=1).float()]
    seen: list[Tensor] = []
    for part in (model.predictor, model.projector if kind is SimSiam else model.target_projector):
        part.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(views)["loss"]
    assert torch.bfloat16 in {output.dtype for output in seen}
    first, second = (seen[2:], seen[:2]) if kind is SimSiam else (seen[:2], seen[2:])
    cosines = [F.cosine_similarity(p.double(), z.double()).mean() for p, z in zip(first, reversed(second), strict=True)]
    expected = -sum(cosines) / 2 if kind is SimSiam else 4 - 2 * sum(cosines)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(float(expected), abs=1e-5)


# ---------------------------------------------------------------- MoCo v2


def moco(**options: int | float | bool) -> MoCoV2:
    torch.manual_seed(0)
    return MoCoV2(nn.Linear(6, 6), 6, out=4, queue=10, momentum=0.5, **options).double()


def test_keys_of_all_micro_batches_enter_the_queue_after_the_step_and_the_pointer_wraps() -> None:
    model = moco()
    before = model.queue.clone()
    for step in range(2):
        model.before_step(info(step))
        for part in (0, 1):
            model([rows(3, seed=part), rows(3, seed=10 * step + part)])
            assert step > 0 or torch.equal(model.queue, before)  # not within the step
        model.after_step(info(step))
        assert int(model.queue_pointer) == 6 * (step + 1) % 10
    views = torch.cat([rows(3, seed=10), rows(3, seed=11)])
    expected = F.normalize(model.key_projector(model.key_encoder(views)), dim=1)
    assert torch.allclose(model.queue[:, [6, 7, 8, 9, 0, 1]], expected.t())
    assert torch.allclose(model.queue.norm(dim=0), torch.ones(10).double())


def test_the_key_network_is_averaged_before_the_step() -> None:
    model = moco()
    with torch.no_grad():
        model.encoder.weight.fill_(1.0)
        model.key_encoder.weight.fill_(0.0)
    model.before_step(info(0))
    assert torch.allclose(model.key_encoder.weight, torch.full((6, 6), 0.5).double())


def test_micro_batches_without_bn_are_the_large_batch_for_moco() -> None:
    whole, parts = moco(), moco()
    q, k = rows(8), rows(8, seed=1)
    for model, count in ((whole, 1), (parts, 4)):
        model.before_step(info(0))
        for a, b in zip(q.chunk(count), k.chunk(count), strict=True):
            (model([a, b])["loss"] / count).backward()
        model.after_step(info(0))
    assert torch.allclose(whole.encoder.weight.grad, parts.encoder.weight.grad, rtol=1e-12)
    assert torch.allclose(whole.queue, parts.queue)


def test_symmetric_moco_is_the_mean_of_both_directions() -> None:
    a, b = rows(4), rows(4, seed=1)
    both = (moco()([a, b])["loss"] + moco()([b, a])["loss"]) / 2
    model = moco(symmetric=True)
    assert model([a, b])["loss"].item() == pytest.approx(both.item())
    model.after_step(info(0))
    assert int(model.queue_pointer) == 8


def test_the_parts_of_bn_see_shuffled_keys_on_one_rank() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = MoCoV2(nn.Sequential(*layers), 6, out=4, queue=8, bn_parts=2, seed=5)
    model.before_step(info(3))
    views = torch.randn(8, 3, 6, 6)
    conv, _, *after = model.key_encoder

    def keys(order: Tensor) -> Tensor:
        """Computed in this order, image i in part i modulo 2, and given back in the order of the images."""
        maps = conv(views[order])
        for part in (0, 1):
            maps[part::2] = F.batch_norm(maps[part::2], None, None, training=True)
        found = F.normalize(model.key_projector(nn.Sequential(*after)(maps)), dim=1)
        return found[order.argsort()]

    with torch.no_grad():
        shuffled, plain = keys(torch.from_numpy(permutation(5, 3, 8))), keys(torch.arange(8))
    assert not torch.allclose(shuffled, plain, atol=1e-2)
    assert torch.allclose(model._compute_keys(views), shuffled, atol=1e-6)


def test_split_bn_is_bn_of_each_part() -> None:
    x = torch.randn(8, 3, 2, 2)
    bn, reference = nn.Sequential(nn.BatchNorm2d(3)), nn.BatchNorm2d(3)
    split_batch_norm(bn, 4)
    y = bn(x)
    means, variances = [], []
    for part in range(4):
        reference.reset_running_stats()
        assert torch.allclose(y[part::4], reference(x[part::4]), atol=1e-6)
        means.append(reference.running_mean.clone())
        variances.append(reference.running_var.clone())
    assert torch.allclose(bn[0].running_mean, torch.stack(means).mean(0), atol=1e-6)
    assert torch.allclose(bn[0].running_var, torch.stack(variances).mean(0), atol=1e-6)
    assert torch.allclose(bn.eval()(x), F.batch_norm(x, bn[0].running_mean, bn[0].running_var, eps=1e-5))
    assert set(bn.state_dict()) == {f"0.{k}" for k in reference.state_dict()}


def test_split_bn_refuses_bn_with_an_activation_inside() -> None:
    from timm.layers.norm_act import BatchNormAct2d

    with pytest.raises(UserError, match="bn_parts works only with"):
        split_batch_norm(nn.Sequential(BatchNormAct2d(4)), 2)


# ---------------------------------------------------------------- SwAV


def swav(**options: int | float) -> SwAV:
    torch.manual_seed(0)
    return SwAV(nn.Linear(6, 6), 6, hidden=8, out=4, prototypes=5, **options).double()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 100))
def test_sinkhorn_spreads_evenly(samples: int, prototypes: int, seed: int) -> None:
    q = sinkhorn(rows(samples, prototypes, seed).tanh(), 0.1, 200)
    assert torch.allclose(q.sum(1), torch.ones(samples).double())
    assert torch.allclose(q.sum(0), torch.full((prototypes,), samples / prototypes).double(), rtol=1e-2)


def test_prototypes_are_of_unit_length_and_frozen_at_first() -> None:
    model = swav(frozen_steps=1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for step, frozen in ((0, True), (1, False)):
        model.before_step(info(step))
        assert torch.allclose(model.prototypes.weight.norm(dim=1), torch.ones(5).double())
        before = model.prototypes.weight.clone()
        optimiser.zero_grad()
        model([rows(4, seed=n) for n in range(3)])["loss"].backward()
        model.before_update(info(step))
        optimiser.step()
        assert torch.equal(before, model.prototypes.weight) is frozen
        model.after_step(info(step))


def test_the_queue_starts_in_its_epoch_and_is_used_once_full() -> None:
    model, plain = swav(queue=8, queue_from_epoch=1), swav()
    used = []
    for step in (4, 5, 6, 7):  # five steps an epoch
        crops = [rows(4, seed=10 * step + n) for n in range(3)]
        model.before_step(info(step))
        plain.before_step(info(step))
        used.append(not torch.allclose(model(crops)["loss"], plain(crops)["loss"], rtol=1e-9))
        model.after_step(info(step))
    assert used == [False, False, False, True]
    assert int(model.queue_rows) == 12
    newest = F.normalize(model.projector(model.encoder(torch.cat(crops))), dim=1)[:4]
    assert torch.allclose(model.queue[0, :4], newest)


def test_the_queue_of_micro_batches_is_that_of_the_whole_batch() -> None:
    whole, parts = swav(queue=12, queue_from_epoch=0), swav(queue=12, queue_from_epoch=0)
    whole.projector = parts.projector = nn.Linear(6, 4).double()  # no BN, whose statistics differ
    for step in (0, 1):
        crops = [rows(4, seed=10 * step + n) for n in range(3)]
        for model, count in ((whole, 1), (parts, 2)):
            model.before_step(info(step))
            for micro in zip(*(crop.chunk(count) for crop in crops), strict=True):
                model(list(micro))
            model.after_step(info(step))
    assert int(parts.queue_rows) == 8
    assert torch.equal(parts.queue[:, 8:], torch.zeros(2, 4, 4).double())
    assert torch.allclose(whole.queue, parts.queue)


def test_crops_of_two_sizes_pass() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = SwAV(encoder, 6, hidden=8, out=4, prototypes=5)
    loss = model([torch.randn(4, 3, size, size) for size in (12, 12, 8, 8, 8)])["loss"]
    assert 0 < loss.item() < 10


# ---------------------------------------------------------------- the rest


def test_supervised_needs_labels_and_learns_from_them() -> None:
    model = Supervised(nn.Linear(6, 6), 6, num_classes=3)
    with pytest.raises(TypeError, match="needs labels"):
        model([rows(4).float()])
    assert model([rows(4).float()], torch.tensor([0, 1, 2, 0]))["loss"].item() > 0


@pytest.mark.parametrize("kind", [BYOL, SimSiam, SimCLR])
def test_a_fresh_method_gives_one_finite_loss_and_gradients(kind: type[BYOL | SimSiam | SimCLR]) -> None:
    model = kind(nn.Linear(6, 6), 6)
    (loss,) = model([rows(4).float(), rows(4, seed=1).float()]).values()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["r10", "r50", "r50x2"])
def test_the_small_stem_keeps_four_times_the_resolution(name: str) -> None:
    sizes = []
    for stem in ("imagenet", "cifar"):
        with torch.device("meta"):  # shapes only
            encoder = build_encoder(replace(ARCHITECTURES[name], stem=stem)).eval()
            sizes.append(encoder.forward_features(torch.zeros(1, 3, 32, 32)).shape[-1])
    assert sizes == [1, 4]
