"""Published runs and small-budget ones: a function each, returning a complete ``Recipe``; variants edit another.

[B] is BYOL (arXiv 2006.07733), [S] is SimSiam (arXiv 2011.10566). ``RECIPES`` says beside each what is published of
it: data, hardware, score and where the score stands. A score is of linear evaluation on ImageNet, top-1, unless
said otherwise; those of small-budget runs were measured by others with their own code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from training.config import Heads, Objective, Optim, Recipe, View, Views
from zoo.errors import UserError

# ---------------------------------------------------------------- ImageNet-1k, as published

_MOCO_VIEW = View(min_area=0.2, saturation=0.4, blur_p=0.5)  # official main_moco.py --aug-plus, main_simsiam.py
_SIMCLR_VIEW = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_p=0.5)  # strength 1 (data_util.py)


def byol_in1k(architecture: str, epochs: int) -> Recipe:
    """BYOL on ImageNet-1k, batch 4096 ([B] section 3.3 and app. F)."""
    lr, weight_decay, tau = {  # the official code's presets
        40: (0.45, 1e-6, 0.97),
        100: (0.45, 1e-6, 0.99),
        300: (0.3, 1e-6, 0.99),
        1000: (0.2, 1.5e-6, 0.996),
    }[epochs]
    optim = Optim(lr=lr, weight_decay=weight_decay, tau=tau, epochs=epochs)
    return Recipe(f"byol_{architecture}_in1k_{epochs}ep", "byol", architecture, optim=optim, precision="bf16")


def byol_r50_in1k_1000ep_b512() -> Recipe:
    """BYOL with a batch of 512, on 64 TPU cores ([B] app. G)."""
    base = byol_in1k("r50", 1000)
    optim = replace(base.optim, batch_size=512, lr=0.4, tau=0.9995, weight_decay=1.5e-6)
    return replace(base, name="byol_r50_in1k_1000ep_b512", optim=optim)


def simsiam_in1k(architecture: str, epochs: int) -> Recipe:
    """SimSiam on ImageNet-1k, batch 512 ([S] section 3 and table 4, whose batch was 256)."""
    return Recipe(
        f"simsiam_{architecture}_in1k_{epochs}ep",
        "simsiam",
        architecture,
        zero_init_residual=True,
        views=Views(operations="torchvision", first=_MOCO_VIEW, second=_MOCO_VIEW),
        heads=Heads(hidden=512, out=2048),
        optim=Optim(
            name="sgd",
            lr=0.05,
            batch_size=512,
            epochs=epochs,
            warmup_epochs=0,
            schedule="epoch",
            weight_decay=1e-4,
            fixed_predictor_lr=True,
        ),
        precision="bf16",
    )


def simclr_in1k(architecture: str, epochs: int) -> Recipe:
    """SimCLR on ImageNet-1k, batch 4096 (arXiv 2002.05709 section 2.2, official readme).

    Weight decay is the readme's 1e-4 (the code's default is 1e-6). The official code feeds [0, 1] images; here they
    are normalised as for all methods.
    """
    return Recipe(
        f"simclr_{architecture}_in1k_{epochs}ep",
        "simclr",
        architecture,
        zero_init_residual=True,  # official resnet.py: init_zero
        views=Views(first=_SIMCLR_VIEW, second=_SIMCLR_VIEW),
        heads=Heads(out=128, projector_layers=2),
        objective=Objective(temperature=0.1),
        optim=Optim(name="lars_classic", lr=0.3, weight_decay=1e-4, epochs=epochs),  # 4.8 at 4096
        precision="bf16",
    )


def mocov2_in1k(architecture: str, epochs: int) -> Recipe:
    """MoCo v2 on ImageNet-1k, batch 256 on 8 GPUs, BN per GPU (arXiv 2003.04297, official main_moco.py)."""
    return Recipe(
        f"mocov2_{architecture}_in1k_{epochs}ep",
        "mocov2",
        architecture,
        views=Views(operations="torchvision", first=_MOCO_VIEW, second=_MOCO_VIEW),
        heads=Heads(out=128),
        objective=Objective(temperature=0.2, queue=65_536, key_momentum=0.999),
        optim=Optim(
            name="sgd", lr=0.03, batch_size=256, epochs=epochs, warmup_epochs=0, schedule="epoch", weight_decay=1e-4
        ),
        precision="bf16",
    )


def swav_in1k(architecture: str, epochs: int) -> Recipe:
    """SwAV on ImageNet-1k, batch 4096, 2 x 224 + 6 x 96 (arXiv 2006.09882, official ``scripts``)."""
    large = replace(_SIMCLR_VIEW, min_area=0.14)  # official multicropdataset.py, min_scale_crops
    return Recipe(
        f"swav_{architecture}_in1k_{epochs}ep",
        "swav",
        architecture,
        views=Views(
            operations="torchvision",
            first=large,
            second=large,
            small=replace(_SIMCLR_VIEW, min_area=0.05, max_area=0.14),
            small_size=96,
            small_count=6,
        ),
        heads=Heads(hidden=2048, out=128, prototypes=3000),
        objective=Objective(temperature=0.1, epsilon=0.05, sinkhorn_iterations=3, frozen_steps=313),
        optim=Optim(
            name="larc",
            schedule="swav",
            lr=0.3,  # 4.8 at 4096
            final_lr=0.0003,  # .0048
            start_lr=0.3 / 16,  # .3, official start_warmup
            epochs=epochs,
            weight_decay=1e-6,
        ),
        precision="bf16",
    )


def swav_wide_in1k(architecture: str) -> Recipe:
    """SwAV with wide networks, 400 epochs, 2 x 224 + 4 x 96 (official ``swav_RN50w{2,4}_400ep_pretrain.sh``)."""
    base = swav_in1k(architecture, 400)
    views, objective, batch = replace(base.views, small_count=4), base.objective, 4096
    if architecture == "r50x4":
        first, small = replace(_SIMCLR_VIEW, min_area=0.08), replace(_SIMCLR_VIEW, min_area=0.08, max_area=0.14)
        views = replace(views, first=first, second=first, small=small)
        objective, batch = replace(objective, queue=2560, queue_from_epoch=0), 2560
    scale = 4096 / batch  # the script's rates are those of 4096
    optim = base.optim
    optim = replace(
        optim, batch_size=batch, lr=scale * optim.lr, final_lr=scale * optim.final_lr, start_lr=scale * optim.start_lr
    )
    return replace(base, views=views, heads=replace(base.heads, hidden=8192), objective=objective, optim=optim)


def swav_b256_in1k(epochs: int) -> Recipe:
    """SwAV with a batch of 256 on 4 GPUs: a queue from epoch 15 (official ``swav_200ep_bs256_pretrain.sh``)."""
    base = swav_in1k("r50", epochs)
    return replace(
        base,
        name=f"swav_r50_in1k_{epochs}ep_b256",
        objective=replace(base.objective, queue=3840, queue_from_epoch=15, frozen_steps=5005),
        optim=replace(base.optim, batch_size=256, lr=0.6, final_lr=0.0006, start_lr=0.0, warmup_epochs=0),
    )


def supervised_in1k(architecture: str) -> Recipe:
    """Supervised ImageNet-1k, batch 256, a tenth of the rate after every 30 of 90 epochs (torchvision's reference)."""
    view = View(jitter_p=0, grayscale_p=0, blur_p=0)
    return Recipe(
        f"supervised_{architecture}_in1k_90ep",
        "supervised",
        architecture,
        views=Views(operations="torchvision", first=view, second=None),
        heads=Heads(classes=1000),
        optim=Optim(
            name="sgd", lr=0.1, batch_size=256, epochs=90, warmup_epochs=0, schedule="decay", weight_decay=1e-4
        ),
        precision="bf16",
    )


# ---------------------------------------------------------------- CIFAR-10 and Tiny-ImageNet, small budgets

# One GPU: R18, 3x3 stem, no blur ([S] app. D; lightly's CIFAR-10 benchmark). SGD with the published base rates or
# lightly's; our BYOL loss is four times lightly's (a SUM of squared distances, theirs half the sum of negative
# cosines), so a quarter of its rate with four times its weight decay is the same update.


def _small(method: str, data: str, epochs: int, size: int, view: View, **fields: object) -> Recipe:
    base = Recipe(
        f"{method}_r18_{data}_{epochs}ep",
        method,  # type: ignore[arg-type]
        "r18",
        stem="cifar",
        views=Views(size=size, operations="torchvision", first=view, second=view),
        precision="bf16",
        monitor_epochs=10,
        checkpoint_steps=1000,
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def small_budget(method: str, data: str, epochs: int) -> Recipe:
    """R18 with the 3x3 stem at 32 pixels (CIFAR-10) or 64 (Tiny-ImageNet), batch 512, without blur."""
    size = {"cifar10": 32, "tin": 64}[data]
    simclr = replace(_SIMCLR_VIEW, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur_p=0)  # strength .5
    gentle = replace(_MOCO_VIEW, blur_p=0)
    # .03 and 5e-4 are [S] app. D's; .12 is lightly's .06 per 128
    optim = Optim(
        name="sgd", lr=0.12, batch_size=512, epochs=epochs, warmup_epochs=0, schedule="epoch", weight_decay=5e-4
    )
    match method:
        case "byol":
            heads = Heads(hidden=1024, out=256)
            optim = replace(optim, lr=0.03, weight_decay=2e-3, warmup_epochs=10, schedule="step", tau=0.99)
            return _small(method, data, epochs, size, simclr, heads=heads, optim=optim)
        case "simsiam":
            heads = Heads(hidden=512, out=2048, projector_layers=2, projector_hidden=2048)
            optim = replace(optim, lr=0.03, fixed_predictor_lr=True)
            return _small(method, data, epochs, size, gentle, heads=heads, optim=optim, zero_init_residual=True)
        case "simclr":
            heads, objective = Heads(out=128, projector_layers=2), Objective(temperature=0.5)  # SimCLR app. B.9
            optim = replace(optim, warmup_epochs=10, schedule="step")
            return _small(method, data, epochs, size, simclr, heads=heads, objective=objective, optim=optim)
        case "mocov2":
            # of the authors' CIFAR-10 demonstration; twice its queue, for twice its batch
            objective = Objective(temperature=0.1, queue=8192, key_momentum=0.99, symmetric=True, bn_parts=8)
            return _small(method, data, epochs, size, gentle, heads=Heads(out=128), objective=objective, optim=optim)
        case "swav":
            heads = Heads(hidden=512, out=128, prototypes=512)
            # lightly's Adam at .001 per 128; without the prototypes' frozen first epoch it can start collapsed
            optim = replace(optim, name="adamw", lr=0.002, weight_decay=1e-6)
            objective = Objective(temperature=0.1, frozen_steps=100)
            view = replace(simclr, min_area=0.14)
            return _small(method, data, epochs, size, view, heads=heads, objective=objective, optim=optim)
        case "supervised":
            view = View(min_area=0.2, jitter_p=0, grayscale_p=0, blur_p=0)
            recipe = _small(method, data, epochs, size, view, heads=Heads(classes=10 if data == "cifar10" else 200))
            return replace(recipe, views=replace(recipe.views, second=None), optim=replace(optim, lr=0.05))
    raise UserError(f"no small-budget recipe for {method!r}")


def cpu_budget(method: str, epochs: int) -> Recipe:
    """A narrow ResNet-10 with the 3x3 stem, 24-pixel views of CIFAR-10, batch 64: 5 minutes an epoch on one core.

    BYOL with the small budget's rates, without a warm-up; SimSiam and SimCLR as on Tiny-ImageNet below; MoCo v2 with
    SimCLR's rate and a queue of 64 batches; SwAV with lightly's Adam, prototypes for a batch of 64, and a queue from
    the second epoch (the official script has one for small batches). All but BYOL start as shallow networks.
    """
    match method:
        case "byol":
            base = small_budget(method, "cifar10", 200)
            base = replace(base, optim=replace(base.optim, warmup_epochs=0))
        case "simsiam":
            base = replace(simsiam_r18_tin32(), zero_init_residual=True)
        case "simclr":
            base = simclr_r18_tin32()
        case "mocov2":
            base = small_budget(method, "cifar10", 200)
            objective = replace(base.objective, queue=4096, bn_parts=2)
            optim = replace(base.optim, lr=0.2, weight_decay=1e-4)
            base = replace(base, zero_init_residual=True, objective=objective, optim=optim)
        case "swav":
            base = small_budget(method, "cifar10", 200)
            objective = replace(base.objective, queue=1024, queue_from_epoch=1)
            heads = replace(base.heads, prototypes=128)
            base = replace(base, zero_init_residual=True, objective=objective, heads=heads)
        case _:
            raise UserError(f"no recipe of this size for {method!r}")
    return replace(
        base,
        name=f"{method}_r10_cifar10_{epochs}ep",
        architecture="r10",
        stem="cifar",
        views=replace(base.views, size=24),
        optim=replace(base.optim, batch_size=64, epochs=epochs),
        precision="fp32",
        monitor_epochs=1,
    )


def byol_r18_tin32() -> Recipe:
    """BYOL on half of Tiny-ImageNet for two CPU cores and about an hour: R18, 32-pixel views, batch 64, SGD.

    What it scored stands in model_cards/byol_r18_mini.md. A short run of small batches needs a target that moves
    slowly (with a fast one the features fall to a few dimensions), an encoder that starts as a shallow one
    (zero_init_residual), and views that are not harder than 32 pixels allow.
    """
    view = View(min_area=0.3, brightness=0.2, contrast=0.3, blur_p=0.0)
    return replace(
        byol_in1k("r18", 40),
        name="byol_r18_tin32",
        zero_init_residual=True,
        views=Views(size=32, first=view, second=view),
        heads=Heads(hidden=1024, out=256),
        optim=Optim(name="sgd", lr=0.2, batch_size=64, epochs=13, warmup_epochs=0.25, weight_decay=1e-4, tau=0.996),
        precision="fp32",
        monitor_epochs=3,
    )


def simclr_r18_tin32() -> Recipe:
    """SimCLR in the same setting, with harder views and a temperature of .2: the network that ships by default.

    In runs this short, negatives teach more than a slowly moving target: after 400 steps of 64 images kNN stood above
    a random network's, where BYOL's was still below. What it scored stands in model_cards/simclr_r18_mini.md.
    """
    view = View(min_area=0.2, brightness=0.3, blur_p=0.0)
    return replace(
        byol_r18_tin32(),
        name="simclr_r18_tin32",
        method="simclr",
        views=Views(size=32, first=view, second=view),
        heads=Heads(out=128, projector_layers=2),
        objective=Objective(temperature=0.2),
        optim=Optim(name="sgd", lr=0.2, batch_size=64, epochs=18, warmup_epochs=0.1, weight_decay=1e-4),
    )


def simsiam_r18_tin32() -> Recipe:
    """SimSiam in the same setting, with the 2-layer projector and without blur ([S] app. D)."""
    view = View(min_area=0.2, saturation=0.4, blur_p=0.0)
    return replace(
        simsiam_in1k("r18", 100),
        name="simsiam_r18_tin32",
        views=Views(size=32, operations="torchvision", first=view, second=view),
        heads=Heads(hidden=512, out=2048, projector_layers=2),
        optim=Optim(
            name="sgd",
            lr=0.12,
            batch_size=64,
            epochs=13,
            warmup_epochs=0,
            weight_decay=5e-4,
            fixed_predictor_lr=True,
        ),
        precision="fp32",
        monitor_epochs=3,
    )


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Published:
    """A recipe with what is published of it.

    Attributes:
        make: the recipe.
        data: what it is trained on.
        hardware: what it was published, or is meant, to run on.
        score: expected, with its meaning where that is not linear top-1 on the data; empty where nobody reports one.
        source: where the score stands.
    """

    make: Callable[[], Recipe]
    data: str
    hardware: str
    score: str = ""
    source: str = ""


_METHODS = ("byol", "simsiam", "simclr", "mocov2", "swav", "supervised")
_WIDE = ("r18", "r50", "r50x2", "r50x4", "r200", "r200x2")
_TPU, _GPU8, _GPU1 = "512 TPU v3 cores", "8 V100", "1 RTX A6000"
_IN1K, _S4 = "ImageNet-1k", "[S] table 4"

_BYOL_SCORES = {
    ("r50", 300): ("72.5", "[B] table 5"),
    ("r50", 1000): ("74.3", "[B] table 1"),
    ("r50x2", 1000): ("77.4", "[B] table 1"),
    ("r50x4", 1000): ("78.6", "[B] table 1"),
    ("r200", 1000): ("77.8", "[B] table 9"),
    ("r200x2", 1000): ("79.6", "[B] table 1"),
}
_SIMSIAM_SCORES = {100: "68.1", 200: "70.0", 400: "70.8", 800: "71.3"}
_SIMCLR_SCORES = {
    ("r50", 100): ("66.5", f"{_S4}, a reproduction"),
    ("r50", 200): ("68.3", f"{_S4}, a reproduction"),
    ("r50", 400): ("69.8", f"{_S4}, a reproduction"),
    ("r50", 800): ("70.4", f"{_S4}, a reproduction"),
    ("r50", 1000): ("69.3", "SimCLR table 6"),
    ("r50x2", 1000): ("74.2", "SimCLR table 6"),
    ("r50x4", 1000): ("76.5", "SimCLR table 6"),
}
_MOCO_SCORES = {200: "67.5", 800: "71.1"}
_SWAV_SCORES = {100: "72.1", 200: "73.9", 400: "74.6", 800: "75.3"}
_LIGHTLY = {  # CIFAR-10, batch 512, kNN with k = 200 and t = .1, best epoch
    ("byol", 200): "86.8",
    ("byol", 800): "91.0",
    ("simsiam", 200): "76.4",
    ("simsiam", 800): "90.4",
    ("simclr", 200): "84.8",
    ("simclr", 800): "87.9",
    ("mocov2", 200): "84.7",
    ("mocov2", 800): "89.9",
    ("swav", 200): "84.2",
    ("swav", 800): "88.4",
}
_SIMSIAM_CIFAR = {("simsiam", 800): ", linear 91.8", ("simclr", 800): ", linear 91.1"}  # [S] app. D


def _rows() -> list[Published]:
    rows = [
        Published(lambda a=a, e=e: byol_in1k(a, e), _IN1K, _TPU, *_BYOL_SCORES.get((a, e), ()))  # type: ignore[misc]
        for a in _WIDE
        for e in (40, 100, 300, 1000)
    ]
    rows.append(Published(byol_r50_in1k_1000ep_b512, _IN1K, "64 TPU v3 cores", "73.7", "[B] app. G"))
    rows += [
        Published(
            lambda a=a, e=e: simsiam_in1k(a, e),  # type: ignore[misc]
            _IN1K,
            _GPU8,
            *((_SIMSIAM_SCORES[e], _S4) if a == "r50" else ()),
        )
        for a in _WIDE
        for e in (100, 200, 400, 800)
    ]
    rows += [
        Published(lambda a=a, e=e: simclr_in1k(a, e), _IN1K, "128 TPU v3 cores", *published)  # type: ignore[misc]
        for (a, e), published in _SIMCLR_SCORES.items()
    ]
    rows += [
        Published(lambda e=e: mocov2_in1k("r50", e), _IN1K, _GPU8, score, "MoCo's readme")  # type: ignore[misc]
        for e, score in _MOCO_SCORES.items()
    ]
    rows += [
        Published(lambda e=e: swav_in1k("r50", e), _IN1K, "64 V100", score, "SwAV's readme")  # type: ignore[misc]
        for e, score in _SWAV_SCORES.items()
    ]
    rows += [
        Published(lambda e=e: swav_b256_in1k(e), _IN1K, "4 V100", score, "SwAV's readme")  # type: ignore[misc]
        for e, score in ((200, "72.7"), (400, "74.3"))
    ]
    rows.append(Published(lambda: swav_wide_in1k("r50x2"), _IN1K, "128 V100", "77.3", "SwAV's readme"))
    rows.append(Published(lambda: swav_wide_in1k("r50x4"), _IN1K, "64 V100", "77.9", "SwAV's readme"))
    rows.append(Published(lambda: supervised_in1k("r18"), _IN1K, _GPU8, "69.8 supervised", "torchvision, weights V1"))
    rows.append(Published(lambda: supervised_in1k("r50"), _IN1K, _GPU8, "76.1 supervised", "torchvision, weights V1"))
    for data, words in (("cifar10", "CIFAR-10"), ("tin", "Tiny-ImageNet")):
        for method in _METHODS:
            for epochs in (200, 800):
                knn = _LIGHTLY.get((method, epochs)) if data == "cifar10" else None
                score = f"kNN {knn}{_SIMSIAM_CIFAR.get((method, epochs), '')}" if knn else ""
                source = ("lightly's benchmark" + (", [S] app. D" if "linear" in score else "")) if knn else ""
                rows.append(
                    Published(
                        lambda m=method, d=data, e=epochs: small_budget(m, d, e),  # type: ignore[misc]
                        words,
                        _GPU1,
                        score,
                        source,
                    )
                )
    rows += [
        Published(lambda m=method: cpu_budget(m, 3), "CIFAR-10", "1 CPU core")  # type: ignore[misc]
        for method in _METHODS
        if method != "supervised"
    ]
    half = "Tiny-ImageNet, half"
    rows.append(Published(byol_r18_tin32, half, "2 CPU cores", "linear 12.3", "model_cards/byol_r18_mini.md"))
    rows.append(Published(simsiam_r18_tin32, half, "2 CPU cores"))
    rows.append(Published(simclr_r18_tin32, half, "1 CPU core", "linear 19.5", "model_cards/simclr_r18_mini.md"))
    return rows


RECIPES: Mapping[str, Published] = {row.make().name: row for row in _rows()}


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: unknown; the nearest name is given.
    """
    from difflib import get_close_matches

    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1, cutoff=0.0)
        raise UserError(f"unknown recipe {name!r}: did you mean {near[0]}? `zoo-train recipes` lists all")
    return RECIPES[name].make()
