"""Published runs on ImageNet-1k: one function for each, which returns a complete ``Recipe``; variants edit another.

[B] is BYOL (arXiv 2006.07733), [S] is SimSiam (arXiv 2011.10566).

All recipes default to bf16 autocast. The originals were fp32, and SwAV's was apex O1 (mixed fp16). ``--set
precision=fp32`` reproduces fp32, without TF32. (A TPU, on which BYOL and SimCLR were trained, may have multiplied fp32
numbers in bf16; their repositories do not say.)
"""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Heads, Objective, Optim, Recipe, View, Views

MOCO_VIEW = View(min_area=0.2, saturation=0.4, blur_p=0.5)  # official main_moco.py --aug-plus, main_simsiam.py
SIMCLR_VIEW = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_p=0.5)  # strength 1 (data_util.py)

LEM_VIEW = View(min_area=0.2, jitter_p=1.0, saturation=0.4, hue=0.4, blur_p=0.0)  # LEM main.py:116-127
PYC_VIEW_A = replace(LEM_VIEW, min_area=0.08)  # PyContrast datasets/util.py:227-244, crops of methods with a bank


def byol_in1k(architecture: str, epochs: int) -> Recipe:
    """BYOL on ImageNet-1k, batch 4096 ([B] section 3.3 and app. F; deepmind-research, ``byol/configs/byol.py``).

    200, 400 and 800 epochs are [S]'s reproduction. The network has TensorFlow's padding and haiku's initialisers, as in
    the official code.
    """
    # Look up the hyper-parameters that were tuned for this length.
    lr, weight_decay, tau = {
        40: (0.45, 1e-6, 0.97),
        100: (0.45, 1e-6, 0.99),
        200: (0.3, 1e-6, 0.99),  # [S] footnote 6
        300: (0.3, 1e-6, 0.99),
        400: (0.3, 1e-6, 0.99),  # [S] footnote 6
        800: (0.2, 1.5e-6, 0.996),  # [S] footnote 6
        1000: (0.2, 1.5e-6, 0.996),
    }[epochs]
    return Recipe(
        f"byol_{architecture}_in1k_{epochs}ep",
        "byol",
        architecture,
        padding="same",
        project_first=architecture == "r18",
        initialiser="haiku",
        optim=Optim(lr=lr, weight_decay=weight_decay, tau=tau, epochs=epochs, drop_last=False),
        precision="bf16",
    )


def byol_r50_in1k_1000ep_b512() -> Recipe:
    """BYOL with a batch of 512, on 64 TPU cores ([B] app. G)."""
    base = byol_in1k("r50", 1000)
    optim = replace(base.optim, batch_size=512, lr=0.4, tau=0.9995, weight_decay=1.5e-6)
    return replace(base, name="byol_r50_in1k_1000ep_b512", optim=optim)


def simsiam_in1k(architecture: str, epochs: int) -> Recipe:
    """SimSiam on ImageNet-1k, batch 512 ([S] section 3, official ``main_simsiam.py``; table 4's batch was 256)."""
    return Recipe(
        f"simsiam_{architecture}_in1k_{epochs}ep",
        "simsiam",
        architecture,
        zero_init_residual=True,
        views=Views(operations="torchvision", first=MOCO_VIEW, second=MOCO_VIEW),
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


def simsiam_b256_in1k(epochs: int) -> Recipe:
    """SimSiam with a batch of 256, as in [S] table 4."""
    base = simsiam_in1k("r50", epochs)
    return replace(base, name=f"{base.name}_b256", optim=replace(base.optim, batch_size=256))


def simsiam_optimal_in1k() -> Recipe:
    """SimSiam "optimal" of [S] table 5: better in detection, similar on ImageNet ([S] section 6.1).

    The paper gives lr .5 and weight decay 1e-5, and 200 epochs for all rows of the table. It does not give the batch:
    256, as in table 4, is assumed, which makes .5 the base rate.
    """
    base = simsiam_b256_in1k(200)
    return replace(base, name="simsiam_r50_in1k_200ep_optimal", optim=replace(base.optim, lr=0.5, weight_decay=1e-5))


def simclr_in1k(architecture: str, epochs: int) -> Recipe:
    """SimCLR v1 on ImageNet-1k, batch 4096 (arXiv 2002.05709 section 2.2; google-research/simclr at be133b3).

    Weight decay is 1e-6 in the paper and in v1's ``run.py``. The readme's 1e-4 came with SimCLR v2 (244e712).

    The official code feeds images in [0, 1]; here they are normalised as for all methods. It draws one blur radius per
    view and replica's batch, here one per image. It makes one more step, with a learning rate of almost 0.
    """
    return Recipe(
        f"simclr_{architecture}_in1k_{epochs}ep",
        "simclr",
        architecture,
        zero_init_residual=True,  # official resnet.py: init_zero
        padding="same-pool",  # official resnet.py: fixed_padding in convolutions, SAME in the pool
        initialiser="tensorflow",
        views=Views(operations="simclr", first=SIMCLR_VIEW, second=SIMCLR_VIEW),
        heads=Heads(out=128, projector_layers=2),
        objective=Objective(temperature=0.1),
        optim=Optim(name="lars_classic", lr=0.3, weight_decay=1e-6, epochs=epochs, drop_last=False),  # 4.8 at 4096
        precision="bf16",
    )


def simclr_3layer_in1k(epochs: int) -> Recipe:
    """SimCLR with a three-layer projector, [S] table 4's "repro.+" ([S] app. C)."""
    base = simclr_in1k("r50", epochs)
    return replace(base, name=f"{base.name}_3layer", heads=replace(base.heads, projector_layers=3))


def mocov2_in1k(architecture: str, epochs: int) -> Recipe:
    """MoCo v2 on ImageNet-1k, batch 256 on 8 GPUs, BN per GPU (arXiv 2003.04297, official main_moco.py)."""
    return Recipe(
        f"mocov2_{architecture}_in1k_{epochs}ep",
        "mocov2",
        architecture,
        views=Views(operations="torchvision", first=MOCO_VIEW, second=MOCO_VIEW),
        heads=Heads(out=128),
        objective=Objective(temperature=0.2, queue=65_536, key_momentum=0.999),
        optim=Optim(
            name="sgd", lr=0.03, batch_size=256, epochs=epochs, warmup_epochs=0, schedule="epoch", weight_decay=1e-4
        ),
        precision="bf16",
    )


def mocov2_symmetric_in1k(epochs: int) -> Recipe:
    """MoCo v2 with the loss of both directions, [S] table 4's "repro.+" ([S] app. C).

    The paper does not say if the directions were summed or averaged; they are averaged here.
    """
    base = mocov2_in1k("r50", epochs)
    return replace(base, name=f"{base.name}_symmetric", objective=replace(base.objective, symmetric=True))


def swav_in1k(architecture: str, epochs: int) -> Recipe:
    """SwAV on ImageNet-1k, batch 4096, 2 x 224 + 6 x 96 (arXiv 2006.09882, official ``scripts``).

    BN's statistics are those of 8 GPUs with 64 images each (``--sync_bn apex``, ``--syncbn_process_group_size 8``).
    """
    large = replace(SIMCLR_VIEW, min_area=0.14)  # official multicropdataset.py, min_scale_crops
    return Recipe(
        f"swav_{architecture}_in1k_{epochs}ep",
        "swav",
        architecture,
        bn_group_images=512,  # 8 x 64
        views=Views(
            operations="torchvision",
            first=large,
            second=large,
            small=replace(SIMCLR_VIEW, min_area=0.05, max_area=0.14),
            small_size=96,
            small_count=6,
            red_std=0.228,  # official multicropdataset.py
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
    # Start from the recipe of the standard width.
    base = swav_in1k(architecture, 400)
    views, objective, batch, bn_images = replace(base.views, small_count=4), base.objective, 4096, 8 * 32
    if architecture == "r50x4":
        first, small = replace(SIMCLR_VIEW, min_area=0.08), replace(SIMCLR_VIEW, min_area=0.08, max_area=0.14)
        views = replace(views, first=first, second=first, small=small)
        objective, batch, bn_images = replace(objective, queue=2560, queue_from_epoch=0), 2560, 8 * 40
    # Keep the rates of the script whatever the batch, as a recipe states them for 256.
    scale = 4096 / batch  # the script states the learning rates for a batch of 4096
    optim = base.optim
    optim = replace(
        optim, batch_size=batch, lr=scale * optim.lr, final_lr=scale * optim.final_lr, start_lr=scale * optim.start_lr
    )
    heads = replace(base.heads, hidden=8192)
    return replace(base, bn_group_images=bn_images, views=views, heads=heads, objective=objective, optim=optim)


def swav_2x224_in1k(epochs: int, layers: int = 2) -> Recipe:
    """SwAV without small crops (official ``swav_400ep_2x224_pretrain.sh``).

    With three layers in the projector it is [S] table 4's "repro.+". The paper says neither the width of the third
    layer nor the smallest crop; they are the projector's hidden width and the script's .08 here.
    """
    base = swav_in1k("r50", epochs)
    large = replace(base.views.first, min_area=0.08)
    return replace(
        base,
        name=f"{base.name}_2x224" + ("_3layer" if layers == 3 else ""),
        views=replace(base.views, first=large, second=large, small=None, small_count=0),
        heads=replace(base.heads, mlp_layers=layers),
    )


def swav_b256_in1k(epochs: int) -> Recipe:
    """SwAV with a batch of 256 on 4 GPUs: a queue from epoch 15 (official ``swav_200ep_bs256_pretrain.sh``)."""
    base = swav_in1k("r50", epochs)
    return replace(
        base,
        name=f"swav_r50_in1k_{epochs}ep_b256",
        bn_group_images=0,  # --sync_bn pytorch: all 4 GPUs
        objective=replace(base.objective, queue=3840, queue_from_epoch=15, frozen_steps=5005),
        optim=replace(base.optim, batch_size=256, lr=0.6, final_lr=0.0006, start_lr=0.0, warmup_epochs=0),
    )


def supervised_in1k(architecture: str) -> Recipe:
    """Supervised ImageNet-1k, batch 256, 90 epochs, rate divided by 10 after every 30 (torchvision's reference)."""
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


def instdisc_in1k() -> Recipe:
    """InstDisc on ImageNet-1k, batch 256, 200 epochs, NCE with 4096 negatives (lemniscate.pytorch f7cfe29, main.py)."""
    return Recipe(
        "instdisc_r50_in1k_200ep",
        "instdisc",
        "r50",
        views=Views(operations="torchvision", first=LEM_VIEW, second=None),
        heads=Heads(out=128),
        objective=Objective(temperature=0.07),
        optim=Optim(
            name="sgd",
            lr=0.03,
            batch_size=256,
            epochs=200,
            warmup_epochs=0,
            schedule="decay",
            decay_start=120,  # and again at 160
            decay_epochs=40,
            weight_decay=1e-4,
        ),
        options={"negatives": 4096, "bank_momentum": 0.5, "loss": "nce", "bank_start": "uniform"},
        precision="bf16",
    )


def cmc_in1k() -> Recipe:
    """CMC on ImageNet-1k: two half-width R50, Lab, NCE with 16 384 negatives, batch 128 (7b227be, train_CMC.py)."""
    base = instdisc_in1k()
    view = View(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)  # a crop of 8 to 100 % and a flip
    return replace(
        base,
        name="cmc_r50_in1k_240ep",
        method="cmc",
        architecture="cmc_r50",
        views=replace(base.views, first=view),
        # .03 at 128; a tenth after 120, 160 and 200 epochs
        optim=replace(base.optim, lr=0.06, batch_size=128, epochs=240),
        options={**base.options, "negatives": 16_384},
    )


def cmc_pycontrast_in1k() -> Recipe:
    """PyContrast's CMC (84f94ea, ``--method CMC --cosine``): YDbDr with jitter, InfoNCE with 65 536 negatives."""
    base = instdisc_pycontrast_in1k()
    view = replace(PYC_VIEW_A, hue=0.1, grayscale_p=0.0)  # PyContrast's view C
    return replace(
        base,
        name="cmc_r50_in1k_200ep_pycontrast",
        method="cmc",
        architecture="cmc_r50_ydbdr",
        views=replace(base.views, first=view),
    )


def instdisc_pycontrast_in1k() -> Recipe:
    """PyContrast's InsDis (84f94ea, ``--method InsDis --cosine``): InfoNCE with 65 536 negatives, cosine by epoch."""
    base = instdisc_in1k()
    return replace(
        base,
        name="instdisc_r50_in1k_200ep_pycontrast",
        views=replace(base.views, first=PYC_VIEW_A),
        optim=replace(base.optim, schedule="epoch_end", final_lr=0.03e-3, decay_start=0, decay_epochs=30),
        options={"negatives": 65_536, "bank_momentum": 0.5, "loss": "softmax", "bank_start": "normal_unit"},
    )


def pirl_in1k(epochs: int) -> Recipe:
    """PIRL with an MLP head and blur on ImageNet-1k, batch 1024 (VISSL 09270ed, pirl/, transforms/photo_gblur.yaml).

    Flip and colours are drawn for each of the nine patches by itself, as in VISSL, on the cell that the patch is cut
    from.
    """
    colours = replace(SIMCLR_VIEW, blur_p=0.5)
    return Recipe(
        f"pirl_r50_in1k_{epochs}ep",
        "pirl",
        "r50",
        views=Views(
            operations="torchvision",
            first=colours,
            second=None,
            small=replace(colours, min_area=0.6, cells=3),
            small_size=255,
            small_count=1,
        ),
        heads=Heads(out=128, mlp_layers=2),
        objective=Objective(temperature=0.1),
        optim=Optim(
            name="sgd",
            lr=0.03,  # .12 at 1024
            batch_size=1024,
            epochs=epochs,
            warmup_epochs=0,
            schedule="epoch",
            final_lr=0.03e-3,
            weight_decay=1e-4,
        ),
        options={
            "code": "vissl",
            "patch_weight": 0.5,
            "negatives": 32_000,
            "bank_momentum": 0.5,
            "loss": "softmax",
            "bank_start": "uniform_unit",
        },
        precision="bf16",
    )


def pirl_pycontrast_in1k() -> Recipe:
    """PyContrast's PIRL (84f94ea, ``--method PIRL --cosine``): plain patches, InfoNCE with 65 536 negatives."""
    base = instdisc_pycontrast_in1k()
    plain = View(min_area=0.6, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return replace(
        base,
        name="pirl_r50_in1k_200ep_pycontrast",
        method="pirl",
        views=replace(base.views, small=plain, small_size=255, small_count=1),
        heads=Heads(out=128, mlp_layers=1),
        options={**base.options, "code": "pycontrast", "patch_weight": 0.5},
    )


def infomin_in1k(epochs: int, rand_augment: int = 2) -> Recipe:
    """InfoMin Aug. on ImageNet-1k, batch 256 (PyContrast 84f94ea, ``--method InfoMin --cosine``).

    The views have RandAugment (rand-n2-m10-mstd0.5), made by Pillow on the host: it needs many cores beside a GPU.
    Recipes whose names end in ``_norandaug`` leave it out.
    """
    base = mocov2_in1k("r50", epochs)
    view = replace(SIMCLR_VIEW, min_area=0.2, rand_augment=rand_augment)
    plain = View(min_area=0.6, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return replace(
        base,
        name=f"infomin_r50_in1k_{epochs}ep" + ("" if rand_augment else "_norandaug"),
        method="infomin",
        views=replace(base.views, first=view, second=view, small=plain, small_size=255, small_count=1),
        objective=Objective(temperature=0.15, queue=65_536, key_momentum=0.999),
        optim=replace(base.optim, schedule="epoch_end", final_lr=0.03e-3),
        options={"patch_weight": 0.5},
    )


def localagg_in1k() -> Recipe:
    """Local Aggregation on ImageNet-1k, batch 128, 10 + 190 epochs (LAT 87ac593, la_final.json, param_setter.py).

    A tenth at steps 1 522 000 and 1 895 857 of 2 001 800, which are epochs 152 and 189. The official network is a
    pre-activation ResNet of TensorFlow; here it is R50 as for the other methods.
    """
    base = instdisc_in1k()
    return replace(
        base,
        name="localagg_r50_in1k_200ep",
        method="localagg",
        optim=replace(base.optim, lr=0.06, batch_size=128, decay_start=152, decay_epochs=37),  # .03 at 128
        options={**base.options, "clusterings": 10, "clusters": 30_000, "instance_epochs": 10},
    )


def cpc_in1k() -> Recipe:
    """CPC v2 on ImageNet-1k, batch 512, 200 epochs (arXiv 1905.09272v3; no official code).

    Grid, context network, targets and steps are the paper's pseudo-code's. What the paper says of augmentation and
    optimiser could not be looked up: Adam at 4e-4 without a schedule, and the gradient's norm of .01 at most, are those
    of ports of it. The paper resizes to 300 and crops 260; here the crop has that area. Weights are not averaged.
    """
    view = View(min_area=0.75, max_area=0.75, grayscale_p=0.25, blur_p=0.0, saturation=0.4)
    return Recipe(
        "cpc_r50_in1k_200ep",
        "cpc",
        "r50_ln",
        views=Views(size=260, operations="torchvision", first=view, second=None),
        heads=Heads(hidden=256, out=64),
        optim=Optim(
            name="adamw",  # without weight decay it is Adam
            lr=2e-4,  # 4e-4 at 512
            batch_size=512,
            epochs=200,
            warmup_epochs=0,
            schedule="decay",
            decay_epochs=200,  # never
            weight_decay=0.0,
        ),
        options={
            "patch": 80,
            "stride": 36,
            "first_step": 3,
            "last_step": 3,
            "layers": 5,
            "drop_colours": 0.5,
            "clip": 0.01,
        },
        precision="bf16",
    )


def mocov3_in1k(epochs: int) -> Recipe:
    """MoCo v3 with R50 on ImageNet-1k, batch 4096 (facebookresearch/moco-v3 c349e6e, CONFIG.md and main_moco.py)."""
    lr, weight_decay, momentum = {  # CONFIG.md:10-47
        100: (0.6, 1e-6, 0.99),
        300: (0.3, 1e-6, 0.99),
        1000: (0.3, 1.5e-6, 0.996),
    }[epochs]
    return Recipe(
        f"mocov3_r50_in1k_{epochs}ep",
        "mocov3",
        "r50",
        zero_init_residual=True,
        views=Views(
            operations="torchvision",
            first=View(min_area=0.2),
            second=View(min_area=0.2, blur_p=0.1, solarize_p=0.2),
        ),
        heads=Heads(hidden=4096, out=256),
        objective=Objective(temperature=1.0),
        optim=Optim("lars", lr, 4096, epochs, warmup_epochs=10, weight_decay=weight_decay, tau=momentum),
        precision="bf16",
    )


def densecl_in1k() -> Recipe:
    """DenseCL on ImageNet-1k, batch 256 (WXinlong/DenseCL b64bbb6, configs/selfsup/densecl/densecl_imagenet_200ep.py).

    Its views are MoCo v2's with the flip at the end.
    """
    return replace(
        mocov2_in1k("r50", 200),
        name="densecl_r50_in1k_200ep",
        method="densecl",
        options={"dense_weight": 0.5},
    )


def byol_gn_in1k() -> Recipe:
    """BYOL with group norm and weight standardisation (arXiv 2010.10241), with the constants of BYOL's 1000 epochs.

    The paper reports 73.9 with its own rates, which could not be looked up. Padding is torch's; 32 groups are group
    norm's own default.
    """
    return replace(
        byol_in1k("r50", 1000),
        name="byol_gn_r50_in1k_1000ep",
        method="byol_gn",
        architecture="r50_gn",
        padding="symmetric",
        options={"groups": 32},
    )


def barlowtwins_in1k(epochs: int) -> Recipe:
    """Barlow Twins on ImageNet-1k, batch 2048 (facebookresearch/barlowtwins 8e8d284, main.py)."""
    optim = Optim("lars", 0.2, 2048, epochs, warmup_epochs=10, final_lr=1e-3 * 0.2, weight_decay=1e-6)
    return Recipe(
        f"barlowtwins_r50_in1k_{epochs}ep",
        "barlowtwins",
        "r50",
        zero_init_residual=True,
        views=Views(operations="torchvision"),
        heads=Heads(hidden=8192, out=8192),
        optim=optim,
        options={"lambd": 0.0051},
        precision="bf16",
    )


def vicreg_in1k(epochs: int) -> Recipe:
    """VICReg on ImageNet-1k, batch 2048 (facebookresearch/vicreg 4e12602, main_vicreg.py); 100 epochs: batch 512."""
    base, lr = barlowtwins_in1k(epochs), 0.3 if epochs == 100 else 0.2
    return replace(
        base,
        name=f"vicreg_r50_in1k_{epochs}ep",
        method="vicreg",
        optim=replace(base.optim, lr=lr, final_lr=1e-3 * lr, batch_size=512 if epochs == 100 else 2048),
        options={"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
    )


def mocov1_in1k() -> Recipe:
    """MoCo v1 on ImageNet-1k (arXiv 1911.05722, official main_moco.py without --mlp, --aug-plus and --cos).

    A head of one Linear, T .07, v1's view, a tenth at epochs 120 and 160.
    """
    base = mocov2_in1k("r50", 200)
    return replace(
        base,
        name="mocov1_r50_in1k_200ep",
        views=replace(base.views, first=LEM_VIEW, second=LEM_VIEW),
        heads=Heads(out=128, mlp_layers=1),
        objective=replace(base.objective, temperature=0.07),
        optim=replace(base.optim, schedule="decay", decay_start=120, decay_epochs=40),
    )
