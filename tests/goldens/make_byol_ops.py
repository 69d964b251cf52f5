"""Write ``byol_ops_free.npz`` with DeepMind's official BYOL code: image operations, schedules and LARS, in float32.

    git clone https://github.com/google-deepmind/deepmind-research && git -C deepmind-research checkout f5de0ed
    pip install jax optax dm-tree scikit-image
    python tests/goldens/make_byol_ops.py --deepmind-research deepmind-research --out tests/goldens

The functions of ``byol/utils/augmentations.py``, ``schedules.py`` and ``optimizers.py`` are called as they are; their
random parameters are drawn here and stored.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data

jax.tree_map = jax.tree_util.tree_map  # jax renamed it after the official code was written

IMAGES, BATCH = 1_281_167, 4096
EPOCHS = {40: (0.45, 0.97), 100: (0.45, 0.99), 300: (0.3, 0.99), 1000: (0.2, 0.996)}  # byol/configs/byol.py
LARS_SHAPES = {
    "enc/conv|w": (3, 3, 4, 8),
    "enc/batch_norm|scale": (8,),
    "enc/batch_norm|offset": (8,),
    "lin|w": (8, 5),
    "lin|b": (5,),
    "zero|w": (4, 4),
    "nograd|w": (4, 4),
}


def pictures() -> list[np.ndarray]:
    """Crops of scikit-image's own pictures at 32, 48 and 33 pixels, and one synthetic image; float32 in [0, 1]."""
    cat, astronaut, coffee = skimage.data.chelsea(), skimage.data.astronaut(), skimage.data.coffee()
    crops = [cat[40:296:8, 60:316:8], astronaut[0:384:8, 60:444:8], coffee[60:324:8, 150:414:8]]
    rng = np.random.default_rng(0)
    synthetic = rng.integers(0, 3, (40, 40, 3)) / 2  # exactly 0, .5 and 1
    return [c.astype(np.float32) / np.float32(255) for c in crops] + [synthetic.astype(np.float32)]


def operations(augmentations: ModuleType, image: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    rgb = tuple(jnp.asarray(image[..., c]) for c in range(3))
    p = {
        "brightness": rng.uniform(-0.4, 0.4),
        "contrast": rng.uniform(0.6, 1.4),
        "saturation": rng.uniform(0.8, 1.2),
        "hue": rng.uniform(-0.1, 0.1),
        "blur": rng.uniform(0.1, 2.0),
    }
    hsv = augmentations.rgb_to_hsv(*rgb)
    out = {
        "brightness": augmentations.adjust_brightness(rgb, p["brightness"]),
        "contrast": augmentations.adjust_contrast(rgb, p["contrast"]),
        "saturation": augmentations.hsv_to_rgb(*augmentations.adjust_saturation(*hsv, p["saturation"])),
        "hue": augmentations.hsv_to_rgb(*augmentations.adjust_hue(*hsv, p["hue"])),
    }
    arrays = {name: np.stack(channels, -1) for name, channels in out.items()}
    arrays["grayscale"] = augmentations._to_grayscale(jnp.asarray(image))
    taps = image.shape[0] / 10.0  # blur_divider
    arrays["blur"] = augmentations._gaussian_blur_single_image(jnp.asarray(image), taps, "SAME", p["blur"])
    augmentations._maybe_apply = lambda apply, inputs, *_: apply(inputs)  # its lax.cond is of an older jax
    arrays["solarize"] = augmentations._solarize_single_image(jnp.asarray(image), None, 0.5, 1.0)
    clipped = {name: np.clip(np.asarray(a), 0, 1).astype(np.float32) for name, a in arrays.items()}
    return clipped | {f"{name}_param": np.float64(value) for name, value in p.items()}


def main(code: Path, out: Path) -> None:
    sys.path.insert(0, str(code))
    from byol.utils import augmentations, optimizers, schedules

    data: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(1)
    for n, image in enumerate(pictures()):
        data[f"{n}_image"] = image
        data |= {f"{n}_{name}": array for name, array in operations(augmentations, image, rng).items()}

    for epochs, (lr, tau) in EPOCHS.items():
        total, warmup = epochs * IMAGES // BATCH, 10 * IMAGES // BATCH
        steps = np.unique([*np.linspace(0, total, 21).astype(int), 1, 2, warmup - 1, warmup, warmup + 1, total - 1])
        rates = [
            schedules.learning_schedule(
                jnp.asarray(s), batch_size=BATCH, base_learning_rate=lr, total_steps=total, warmup_steps=warmup
            )
            for s in steps
        ]
        taus = [schedules.target_ema(jnp.asarray(s), base_ema=tau, max_steps=total) for s in steps]
        data[f"schedule_{epochs}_step"] = steps
        data[f"schedule_{epochs}_lr"] = np.array(rates, np.float64)
        data[f"schedule_{epochs}_tau"] = np.array(taus, np.float64)

    params: dict[str, dict[str, jnp.ndarray]] = {}
    for name, shape in LARS_SHAPES.items():
        module, leaf = name.split("|")
        value = np.zeros(shape) if module == "zero" else rng.normal(size=shape)
        params.setdefault(module, {})[leaf] = jnp.asarray(value, jnp.float32)
    optimizer = optimizers.lars(
        0.37,
        weight_decay=1.5e-3,
        momentum=0.9,
        eta=1e-3,
        weight_decay_filter=optimizers.exclude_bias_and_norm,
        lars_adaptation_filter=optimizers.exclude_bias_and_norm,
    )
    state = optimizer.init(params)

    def record(kind: str, tree: dict[str, dict[str, jnp.ndarray]]) -> None:
        data.update({f"{kind}|{m}|{k}": np.asarray(v) for m, values in tree.items() for k, v in values.items()})

    record("lars_param0", params)
    for step in range(5):
        grads = {
            m: {k: jnp.asarray(rng.normal(size=v.shape) * (m != "nograd"), jnp.float32) for k, v in values.items()}
            for m, values in params.items()
        }
        record(f"lars_grad{step}", grads)
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree_util.tree_map(lambda p, u: p + u, params, updates)
        record(f"lars_param{step + 1}", params)
    np.savez_compressed(out / "byol_ops_free.npz", **data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--deepmind-research", type=Path, required=True, help="clone of google-deepmind/deepmind-research"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    main(args.deepmind_research, args.out)
