"""Wrote ``simclr_narrow.zip`` with TensorFlow's own Saver, and in ``simclr_narrow.npz`` what its graph computes.

Names, order of creation, padding and pooling follow google-research/simclr (``resnet.py``, ``model_util.py``); random
weights, every channel 1/8, blocks 1-2-1-1. Run with TensorFlow 2.21: ``python write_simclr.py EMPTY_FOLDER``.
"""

import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
v1.disable_eager_execution()
rng = np.random.default_rng(7)
counts: Counter[tuple[str, str]] = Counter()


def unique(scope, kind):
    """tf.layers' names: conv2d, conv2d_1, ..."""
    number = counts[scope, kind]
    counts[scope, kind] += 1
    return f"{scope}/{kind}" + (f"_{number}" if number else "")


def variable(name, value):
    coarse = np.round(np.asarray(value, np.float32) * 64) / 64  # so that the file packs well
    return v1.get_variable(name, initializer=coarse)


def conv(x, channels, size, stride):
    name = unique("base_model", "conv2d")
    scale = (2 / (size * size * channels)) ** 0.5
    kernel = variable(f"{name}/kernel", rng.normal(size=(size, size, int(x.shape[-1]), channels)) * scale)
    if stride > 1:  # conv2d_fixed_padding
        begin = (size - 1) // 2
        pad = [begin, size - 1 - begin]
        return tf.nn.conv2d(tf.pad(x, [[0, 0], pad, pad, [0, 0]]), kernel, stride, "VALID")
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def norm(x, scope="base_model", relu=True, center=True):
    name, c = unique(scope, "batch_normalization"), int(x.shape[-1])
    gamma = variable(f"{name}/gamma", rng.uniform(0.5, 1.5, c))
    beta = variable(f"{name}/beta", rng.normal(size=c) * 0.1) if center else 0.0
    mean = variable(f"{name}/moving_mean", rng.normal(size=c) * 0.1)
    variance = variable(f"{name}/moving_variance", rng.uniform(0.5, 2, c))
    x = tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)
    return tf.nn.relu(x) if relu else x


def block(x, filters, stride, project):
    shortcut = norm(conv(x, 4 * filters, 1, stride), relu=False) if project else x
    y = norm(conv(norm(conv(x, filters, 1, 1)), filters, 3, stride))
    return tf.nn.relu(norm(conv(y, 4 * filters, 1, 1), relu=False) + shortcut)


def dense(x, dim, name, bias=False):
    y = tf.matmul(x, variable(f"{name}/kernel", rng.normal(size=(int(x.shape[-1]), dim)) * 0.1))
    return y + variable(f"{name}/bias", rng.normal(size=dim)) if bias else y


def main(out):
    images = v1.placeholder(tf.float32, [None, None, None, 3])
    x = tf.nn.max_pool2d(norm(conv(images, 8, 7, 2)), 3, 2, "SAME")
    for stage, blocks in enumerate([1, 2, 1, 1]):
        for i in range(blocks):
            x = block(x, 8 * 2**stage, 1 if stage == 0 or i else 2, i == 0)
    embedding = tf.reduce_mean(x, [1, 2])
    hidden = dense(embedding, int(embedding.shape[-1]), "head_contrastive/nl_0/dense")
    hidden = norm(hidden, "head_contrastive/nl_0")
    projection = dense(hidden, 16, "head_contrastive/nl_1/dense")
    projection = norm(projection, "head_contrastive/nl_1", relu=False, center=False)
    logits = dense(embedding, 10, "head_supervised/linear_layer/dense", bias=True)
    v1.get_variable("global_step", initializer=np.int64(5), dtype=tf.int64)
    v1.get_variable("base_model/conv2d/kernel/Momentum", initializer=np.ones((7, 7, 3, 8), np.float32))

    arrays = {}
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        v1.train.Saver(save_relative_paths=True).save(session, str(out / "model.ckpt"), global_step=5)
        for size in ((64, 64), (65, 65), (39, 50)):
            name = "{}x{}".format(*size)
            arrays[f"image_{name}"] = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
            given = {images: arrays[f"image_{name}"] / np.float32(255)}
            results = session.run([embedding, projection, logits], given)
            named = zip(("embedding", "projection", "logits"), results, strict=True)
            arrays |= {f"{what}_{name}": result for what, result in named}
    np.savez_compressed(out / "simclr_narrow.npz", **arrays)
    with zipfile.ZipFile(out / "simclr_narrow.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(out.iterdir()):
            if path.name == "checkpoint" or (path.name.startswith("model.ckpt") and path.suffix != ".meta"):
                archive.write(path, f"ResNet50_1x/{path.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
