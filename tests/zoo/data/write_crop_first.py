"""Wrote ``crop_first.npz``: pieces of three photographs, and what TensorFlow makes of them.

The crops are those of ``byol/utils/dataset.py`` (google-deepmind/deepmind-research) and of ``data_util.py``
(google-research/simclr), at sizes that keep the file small; of the results the outermost and every ``EVERY``th line.
Run with TensorFlow 2.21 and Pillow: ``python write_crop_first.py``. ``python write_crop_first.py --photographs`` writes
nothing and compares ``zoo`` (on the path) with TensorFlow on all example photographs at the published size.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"
# photograph, left, top, width, height of the piece; input size; resize, of which the crop is input_size / resize
CASES = [
    ("bird_macaw", 60, 40, 97, 75, 48, 55),
    ("bird_macaw", 120, 90, 60, 82, 64, 73),
    ("astronaut", 100, 20, 33, 120, 31, 35),
    ("astronaut", 90, 30, 118, 90, 24, 27),
    ("astronaut", 90, 30, 3, 5, 16, 18),
    ("mountain_machu_picchu", 50, 90, 51, 51, 51, 51),
    ("mountain_machu_picchu", 50, 90, 100, 110, 224, 256),
    ("mountain_machu_picchu", 10, 10, 131, 87, 32, 32),
]
EVERY = 8


def byol(image, size, resize):
    """_decode_and_center_crop, and what _preprocess_image does then: float32 in 0..1."""
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    side = tf.cast((size / resize) * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
    top, left = ((height - side) + 1) // 2, ((width - side) + 1) // 2
    image = tf.image.crop_to_bounding_box(image, top, left, side, side)
    image = tf.image.resize(image, [size, size], tf.image.ResizeMethod.BICUBIC)
    return tf.clip_by_value(image / 255.0, 0.0, 1.0).numpy()


def simclr(image, size, resize):
    """preprocess_for_eval: float32 in 0..1."""
    image = tf.image.convert_image_dtype(image, tf.float32)
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    short = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.cast(tf.math.rint((size / resize) * short), tf.int32)
    top, left = ((height - side) + 1) // 2, ((width - side) + 1) // 2
    image = tf.image.crop_to_bounding_box(image, top, left, side, side)
    image = tf.compat.v1.image.resize_bicubic([image], [size, size])[0]
    return tf.clip_by_value(image, 0.0, 1.0).numpy()


def write():
    arrays = {}
    for number, (name, left, top, width, height, size, resize) in enumerate(CASES):
        photo = Image.open(PHOTOS / f"{name}.jpg").convert("RGB")
        piece = np.asarray(photo.crop((left, top, left + width, top + height)))
        lines = np.r_[0:2, 2 : size - 2 : EVERY * max(1, size // 32), size - 2 : size]
        arrays |= {f"{number}_piece": piece, f"{number}_sizes": np.array([size, resize]), f"{number}_lines": lines}
        for code in (byol, simclr):
            arrays[f"{number}_{code.__name__}"] = code(piece, size, resize)[lines]
    np.savez_compressed(Path(__file__).with_name("crop_first.npz"), **arrays)


def compare():
    sys.path.insert(0, str(PHOTOS.parents[1]))
    from zoo.transforms.preprocess import Preprocessing

    print(f"{'photograph':24}  code   largest   rounded  other bytes  JPEG decoders differ by")
    for path in sorted(PHOTOS.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        other = int(np.abs(tf.io.decode_jpeg(path.read_bytes()).numpy().astype(int) - np.asarray(image)).max())
        for code in (byol, simclr):
            ours = Preprocessing(224, 256, resizing=code.__name__)
            theirs = code(np.asarray(image), 224, 256) * np.float32(255)
            exact = np.abs(ours.float_pixels(image) - theirs).max()
            pixels = ours.pixels(image)
            rounded, bytes_ = np.abs(pixels - theirs).max(), (pixels != np.rint(theirs)).sum()
            print(f"{path.stem:24}  {code.__name__:6} {exact:.1e}   {rounded:.3f}   {bytes_:6d}       {other}")


compare() if "--photographs" in sys.argv else write()
