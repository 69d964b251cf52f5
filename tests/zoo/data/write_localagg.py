"""Wrote ``localagg_narrow.zip`` with TensorFlow's Saver, and in ``localagg_narrow.npz`` what its graph computes.

The network is ``model/resnet_model.py`` of neuroailab/LocalAggregation at 87ac593, every channel 1/8, blocks 1-2-1-1,
under the scope ``instance`` of ``model/instance_model.py:352``. The variables beside it have the official names. Random
weights, rounded so that the file packs well. Run with TensorFlow 2.15: ``python write_localagg.py CLONE EMPTY_FOLDER``.
"""

import importlib.util
import sys
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
v1.disable_eager_execution()
rng = np.random.default_rng(7)


def official(clone):
    """Import the official module, and give it the interface of TensorFlow 1."""
    spec = importlib.util.spec_from_file_location("resnet_model", clone / "model" / "resnet_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.tf = v1
    return module


def values_for(variable):
    """Random values of a trained network's size, in steps of 1/64."""
    shape, leaf = variable.shape.as_list(), variable.op.name.rpartition("/")[2]
    if leaf in ("gamma", "moving_variance"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
        value = rng.normal(size=shape) * (2 / np.prod(shape[:3])) ** 0.5
    else:
        value = rng.normal(size=shape) * 0.1
    return np.round(value * 64).astype(np.float32) / 64


def main(clone, out):
    resnet = official(clone)
    images = v1.placeholder(tf.float32, [None, None, None, 3])
    with v1.variable_scope("instance", reuse=v1.AUTO_REUSE):
        # ImagenetModel(18) with another num_filters, final_size and num_classes; NHWC, which runs on a CPU
        model = resnet.Model(
            resnet_size=18, bottleneck=False, num_classes=16, num_filters=8, kernel_size=7, conv_stride=2,
            first_pool_size=3, first_pool_stride=2, block_sizes=[1, 2, 1, 1], block_strides=[1, 2, 2, 2],
            final_size=64, resnet_version=2, data_format="channels_last",
        )  # fmt: skip
        logits = model(images, False)
        output = tf.nn.l2_normalize(logits, axis=1)  # network_embedding
        v1.get_variable("memory_bank", initializer=rng.normal(size=(50, 16)).astype(np.float32), trainable=False)
        v1.get_variable("all_labels", initializer=np.zeros(50, np.int64), trainable=False)
    v1.train.get_or_create_global_step()
    v1.get_variable("instance/resnet_model/conv2d/kernel/Momentum", initializer=np.ones((7, 7, 3, 8), np.float32))
    graph = v1.get_default_graph()
    (reduced,) = [op for op in graph.get_operations() if op.name.endswith("final_reduce_mean")]
    embedding = tf.reshape(reduced.outputs[0], [-1, 64])

    arrays = {}
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        for variable in v1.global_variables():
            if variable.op.name.startswith("instance/resnet_model") and not variable.op.name.endswith("Momentum"):
                variable.load(values_for(variable), session)
        v1.train.Saver(save_relative_paths=True).save(session, str(out / "checkpoint"), global_step=1901710)
        for size in ((64, 64), (65, 65), (39, 50)):
            name = "{}x{}".format(*size)
            arrays[f"image_{name}"] = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
            given = {images: arrays[f"image_{name}"] / np.float32(64) - np.float32(2)}  # as after ColorNormalize
            results = session.run([embedding, logits, output], given)
            named = zip(("embedding", "logits", "output"), results, strict=True)
            arrays |= {f"{what}_{name}": result for what, result in named}
    np.savez_compressed(out / "localagg_narrow.npz", **arrays)
    with zipfile.ZipFile(out / "localagg_narrow.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(out.glob("checkpoint-1901710.*")):
            if path.suffix != ".meta":
                archive.write(path, path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
