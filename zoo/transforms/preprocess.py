"""Resize, centre crop, normalise: the transform that belongs to a set of weights; the registry holds one for each.

``pixels`` equals torchvision's ``Resize(resize, interpolation)`` and ``CenterCrop(input_size)`` on a PIL image byte
for byte (Pillow always antialiases), and ``normalise`` equals ``ToTensor`` and ``Normalize``. They use Pillow and numpy
alone, so that extraction on ONNX Runtime needs no torch: importing ``torchvision.transforms`` takes 2.7 s of CPU time
and 650 MB (torchvision 0.29 with CUDA), Pillow and numpy 0.1 s and 28 MB. The official TensorFlow codes crop first and
do not antialias: ``resizing`` selects them, and ``zoo.transforms.tf_bicubic`` implements them.

This module imports quickly: numpy and Pillow are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.transforms.limits import LEAST_SCALE
from zoo.transforms.tf_bicubic import TF_BICUBIC

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from zoo.transforms.tf_bicubic import Box, TfBicubic
    from zoo.transforms.upright_rgb import WholeImage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_RESIZED_PIXELS = 64_000_000  # a 1 x 100000 image would grow to 256 x 25600000
MAX_WHOLE_PIXELS = 4_000_000  # an uncropped image: a ResNet-50 needs a gigabyte of memory for so many

MAX_SIDE = 4096  # a crop of this side is 200 MB of floats, and some gigabytes in the network
MIN_STD, MAX_VALUE = 1e-6, 1e6  # of values in 0..1, or in 0..255 for networks that scale them

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's mode of an image by its number of channels."""

PILLOW = "pillow"
RESIZINGS = (PILLOW, *TF_BICUBIC)
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Preprocessing:
    """The transform from an upright RGB image to the network's input.

    Attributes:
        input_size: side of the square crop in pixels.
        resize: length in pixels to which the short side is resized before the crop, at least ``input_size``.
        interpolation: nearest, bilinear, bicubic, lanczos, box or hamming.
        mean, std: normalisation of the channels R, G, B, for values in 0..1. One number each makes the image gray
            (Pillow's ``L``), two ``LA`` and four ``RGBA``; images are laid on white before, so their alpha is opaque.
        resizing: ``pillow`` resizes the short side with antialias, then crops. ``byol`` and ``simclr`` follow those
            official codes: they crop the centre square of ``input_size / resize`` of the short side, then resize it
            with TensorFlow's bicubic without antialias. The JSON omits the value ``pillow``, as old files do.

    Raises:
        UserError: a value is out of range or unknown.
    """

    input_size: int
    resize: int
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resizing: str = PILLOW

    def __post_init__(self) -> None:
        # Values may come from a file of somebody else, with any type.
        if not (_is_side(self.input_size) and _is_side(self.resize)):
            found = f"input_size {repr(self.input_size)[:20]}, resize {repr(self.resize)[:20]}"
            raise UserError(f"preprocessing: {found}: whole numbers in 1..{MAX_SIDE} are needed")
        if not self.input_size <= self.resize:
            raise UserError(f"preprocessing: input_size {self.input_size} is not in 1..{self.resize}")
        if self.interpolation not in _INTERPOLATIONS:
            raise UserError(f"preprocessing: interpolation must be one of {', '.join(_INTERPOLATIONS)}")
        if not (_are_channels(self.mean) and _are_channels(self.std) and all(s >= MIN_STD for s in self.std)):
            raise UserError(
                f"preprocessing: mean and std need three finite numbers each up to {MAX_VALUE:g}, std from {MIN_STD:g}"
                " (one for gray images, two or four with alpha)"
            )
        if len(self.mean) != len(self.std):
            raise UserError(f"preprocessing: mean has {len(self.mean)} numbers and std {len(self.std)}: give as many")
        if self.resizing not in RESIZINGS:
            raise UserError(f"preprocessing: resizing must be one of {', '.join(RESIZINGS)}")
        if self.tf_bicubic and self.channels != 3:
            raise UserError(f"preprocessing: resizing {self.resizing} is for RGB, not for {self.channels} channels")
        if self.tf_bicubic and self.interpolation != "bicubic":
            raise UserError(f"preprocessing: resizing {self.resizing} is bicubic, not {self.interpolation}")

    @property
    def channels(self) -> int:
        """Channels of the network's input, 1 to 4."""
        return len(self.mean)

    @property
    def mode(self) -> str:
        """Pillow's mode of the network's images: L, LA, RGB or RGBA."""
        return MODES[self.channels]

    @property
    def tf_bicubic(self) -> TfBicubic | None:
        """TensorFlow's crop and resize where ``resizing`` selects it, ``None`` where Pillow resizes."""
        return TF_BICUBIC.get(self.resizing)

    @property
    def summary(self) -> str:
        """A short description of the steps before normalisation."""
        if tf := self.tf_bicubic:
            fraction = self.input_size / self.resize
            crop = f"centre crop of {fraction:.4g} of the short side, then " if fraction < 1 else "centre crop, then "
            return f"{crop}{tf.function} to {self.input_size} (bicubic without antialias)"
        kind = "" if self.channels == 3 else f", as {self.mode}" + (" with opaque alpha" if self.channels > 1 else "")
        return f"short side to {self.resize} ({self.interpolation}), centre crop {self.input_size}{kind}"

    def pixels(self, image: Image) -> NDArray[np.uint8]:
        """Resize and crop one PIL image of mode RGB.

        Returns:
            uint8 [input_size, input_size, 3]; the last axis is ``channels``, here and below.

        Raises:
            UnreadableImage: ``too-large``: the image is so long and thin that it would be resized to more than
                ``MAX_RESIZED_PIXELS``.
        """
        if tf := self.tf_bicubic:
            return tf.pixels(image, self._box(tf, image), self.input_size)
        return self.channels_of(self._centre(self._resize(image, MAX_RESIZED_PIXELS)))

    def ten_crops(self, image: Image) -> list[NDArray[np.uint8]]:
        """Crop four corners and the centre of the resized image, then of its mirror image: torchvision's ``TenCrop``.

        Where ``resizing`` crops first, boxes of its size at these five positions are resized, then mirrored.

        Returns:
            Ten arrays uint8 [input_size, input_size, 3].

        Raises:
            UnreadableImage: as ``pixels``.
        """
        import numpy as np
        from PIL.Image import Transpose

        # TensorFlow crops first and resizes each crop.
        if tf := self.tf_bicubic:
            centre = self._box(tf, image)
            side = centre[2] - centre[0]
            boxes = [*_corners(image.width, image.height, side), centre]
            five = [tf.pixels(image, box, self.input_size) for box in boxes]
            return five + [np.ascontiguousarray(pixels[:, ::-1]) for pixels in five]
        # The others resize once and cut the crops out.
        resized = self._resize(image, MAX_RESIZED_PIXELS)
        crops = []
        for upright in (resized, resized.transpose(Transpose.FLIP_LEFT_RIGHT)):
            corners = _corners(upright.width, upright.height, self.input_size)
            crops += [self.channels_of(upright.crop(box)) for box in corners]
            crops.append(self.channels_of(self._centre(upright)))
        return crops

    def whole(self, image: Image) -> NDArray[np.uint8]:
        """Resize an image without cropping it.

        Returns:
            uint8 [H, W, 3]; the shorter of H and W is ``resize``.

        Raises:
            UnreadableImage: ``too-large``: the result would have more than ``MAX_WHOLE_PIXELS``.
            UserError: this ``resizing`` crops first and never resizes a whole image.
        """
        self.require_whole()
        return self.channels_of(self._resize(image, MAX_WHOLE_PIXELS))

    def check_size(self, width: int, height: int, crops: str = "center") -> None:
        """Refuse an image by its width and height, before it is decoded; exchanging the two changes nothing.

        Args:
            crops: ``center``, ``ten`` or ``full``, as in ``zoo.load``.

        Raises:
            UnreadableImage: ``too-large``, as ``pixels``, ``ten_crops`` and ``whole`` raise it.
        """
        if self.tf_bicubic is None:  # TensorFlow's codes crop first
            most = MAX_WHOLE_PIXELS if crops == "full" else MAX_RESIZED_PIXELS
            _check_resized(self._resized_size(width, height), most)

    def reduction(self, width: int, height: int, tiles: tuple[int, int] | None = None) -> float:
        """Return by which factor the decoder may reduce an image on each axis; exchanging the two changes nothing.

        ``LEAST_SCALE`` times the pixels that the resize makes, of the image and of each of its ``tiles``, are left. It
        is 1 where the resize skips pixels, see ``require_antialias``.
        """
        if self._skips_pixels:
            return 1
        resized = self._resized_size(width, height)
        parts = max(tiles or (0, 0)) * self.input_size
        return min(side / (LEAST_SCALE * max(new, parts)) for side, new in zip((width, height), resized, strict=True))

    def require_antialias(self) -> None:
        """Raise UserError where the resize skips pixels, so that a reduced image would give other embeddings."""
        if self._skips_pixels:
            found = self.tf_bicubic.function if self.tf_bicubic else "nearest"
            raise UserError(
                f"--decode scaled: this model resizes without antialias ({found}), its embeddings would move far: "
                "leave it out"
            )

    def require_whole(self) -> None:
        """Raise UserError where ``resizing`` crops first, so that ``whole`` is not possible."""
        if tf := self.tf_bicubic:
            raise UserError(
                f"--crops full: {tf.function} resizes a square crop here, there is no resized image: "
                "use --crops center or ten"
            )

    def tiles(self, image: Image, rows: int, columns: int) -> list[NDArray[np.uint8]]:
        """Cut an image into a grid of parts of equal size (to a pixel) and resize each with ``resized``.

        Where the image has fewer pixels than parts, neighbouring parts overlap.

        Returns:
            ``rows * columns`` arrays uint8 [input_size, input_size, 3], row by row.
        """
        whole = _whole_of(image)
        width, height = whole.width, whole.height
        tall = [_part(height, row, rows) for row in range(rows)]
        wide = [_part(width, column, columns) for column in range(columns)]
        return [self.resized(image, (left, top, right, bottom)) for top, bottom in tall for left, right in wide]

    def float_pixels(self, image: Image) -> NDArray[np.float32]:
        """``pixels`` before rounding, float32 in 0..255; only a ``resizing`` of TensorFlow has them."""
        tf = self.tf_bicubic
        if tf is None:
            raise ValueError("Pillow rounds to bytes")
        return tf.float_pixels(image, self._box(tf, image), self.input_size)

    def resized(self, image: Image, box: Box) -> NDArray[np.uint8]:
        """Resize a box (left, top, right, bottom) of an RGB image to uint8 [input_size, input_size, 3].

        A box is given in pixels of the whole image where ``image`` was reduced by the decoder.
        """
        size = self.input_size
        if tf := self.tf_bicubic:
            return tf.pixels(image, box, size)
        from PIL.Image import Resampling

        part = _whole_of(image).part(box)
        image = self._in_mode(image)
        return self.channels_of(image.resize((size, size), Resampling[self.interpolation.upper()], box=part))

    def channels_of(self, image: Image) -> NDArray[np.uint8]:
        """Return the pixels of an RGB image in the network's channels, uint8 [H, W, channels], at its own size."""
        import numpy as np

        return np.array(self._in_mode(image)).reshape(image.height, image.width, self.channels)

    def _in_mode(self, image: Image) -> Image:
        """Convert before the resize, as torchvision's and timm's transforms do."""
        return image if self.channels == 3 else image.convert(self.mode)

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise uint8 [N, H, W, 3] in 0..255 to contiguous float32 [N, 3, H, W]: (value / 255 - mean) / std."""
        import numpy as np

        scaled = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
        scaled /= np.float32(255)
        scaled -= np.array(self.mean, np.float32)[:, None, None]
        scaled /= np.array(self.std, np.float32)[:, None, None]
        return scaled

    def to_json(self) -> dict[str, object]:
        """Return the fields as a JSON-serialisable dict without a ``resizing`` of ``pillow``; see ``from_json``."""
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if self.resizing == PILLOW:  # plans, manifests and configs that are older than this field stay valid
            del fields["resizing"]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Preprocessing:
        """Read the dict of ``to_json``.

        Raises:
            UserError: a key is missing or unknown, or a value is out of range.
        """
        if not isinstance(fields, Mapping):
            raise UserError("preprocessing: not a mapping")
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown or not {"input_size", "resize"} <= set(fields):
            raise UserError(f"preprocessing: input_size and resize are needed, {str(unknown)[:100]} not known")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)

    @property
    def _skips_pixels(self) -> bool:
        return self.tf_bicubic is not None or self.interpolation == "nearest"

    def _box(self, tf: TfBicubic, image: Image) -> Box:
        return tf.box(image.width, image.height, self.input_size / self.resize)

    def _resize(self, image: Image, max_pixels: int) -> Image:
        from PIL.Image import Resampling

        whole = _whole_of(image)
        width, height = self._resized_size(whole.width, whole.height)
        _check_resized((width, height), max_pixels)
        image = self._in_mode(image)
        if (width, height) == image.size:
            return image
        box = whole.box if whole.reduction != 1 else None
        return image.resize((width, height), Resampling[self.interpolation.upper()], box=box)

    def _centre(self, image: Image) -> Image:
        left, top = round((image.width - self.input_size) / 2), round((image.height - self.input_size) / 2)
        return image.crop((left, top, left + self.input_size, top + self.input_size))

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        # torchvision.transforms.functional._compute_resized_output_size, with its order of operations
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize


def _whole_of(image: Image) -> WholeImage:
    from zoo.transforms.upright_rgb import whole_of

    return whole_of(image)


def _check_resized(size: tuple[int, int], max_pixels: int) -> None:
    from zoo.transforms.unreadable import UnreadableImage

    width, height = size
    if width * height > max_pixels:
        raise UnreadableImage("too-large", f"{width} x {height} pixels after resizing, too long and thin")


def _is_side(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= MAX_SIDE


def _are_channels(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) in MODES
        and all(isinstance(v, Real) and not isinstance(v, bool) and abs(float(v)) <= MAX_VALUE for v in values)
    )


def _corners(width: int, height: int, side: int) -> list[Box]:
    """Squares of ``side`` pixels at the top left, top right, bottom left and bottom right."""
    corners = [(left, top) for top in (0, height - side) for left in (0, width - side)]
    return [(left, top, left + side, top + side) for left, top in corners]


def _part(length: int, index: int, count: int) -> tuple[int, int]:
    """Start and end of one of ``count`` parts of ``length`` pixels; a part has at least one pixel."""
    start = index * length // count
    return start, max(start + 1, (index + 1) * length // count)
