"""Resize, centre crop, normalise: the transform belongs to the weights, the registry holds one for each.

``pixels`` is, byte for byte, torchvision's ``Resize(resize, interpolation)`` and ``CenterCrop(input_size)``
on a PIL image (Pillow always antialiases); ``normalise`` is ``ToTensor`` and ``Normalize``. The official codes in
TensorFlow crop first and do not antialias: ``resizing`` names them, ``zoo.transforms.tf_bicubic`` is their
arithmetic. Importing
this module costs nothing: numpy and Pillow are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.transforms.tf_bicubic import CROP_FIRST

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from zoo.transforms.tf_bicubic import Box, CropFirst

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_RESIZED_PIXELS = 64_000_000  # a 1 x 100000 image would grow to 256 x 25600000
MAX_WHOLE_PIXELS = 4_000_000  # of an image that goes through a network whole: a ResNet-50 needs a gigabyte for it

PILLOW = "pillow"
RESIZINGS = (PILLOW, *CROP_FIRST)
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Preprocessing:
    """From an upright RGB image to the network's input.

    Attributes:
        input_size: side of the square crop, pixels.
        resize: what the short side becomes first, pixels, at least ``input_size``.
        interpolation: nearest, bilinear, bicubic, lanczos, box or hamming.
        mean, std: per channel R, G, B, for values in 0..1.
        resizing: ``pillow``: the short side is resized with antialias, then cropped. ``byol`` and ``simclr``, as in
            their official codes: the centre of ``input_size / resize`` of the short side is cropped, then resized by
            TensorFlow's bicubic without antialias. Not part of the JSON where it is ``pillow``, as it once was not.

    Raises:
        UserError: a value outside of these.
    """

    input_size: int
    resize: int
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resizing: str = PILLOW

    def __post_init__(self) -> None:
        if not 1 <= self.input_size <= self.resize:
            raise UserError(f"preprocessing: input_size {self.input_size} is not in 1..{self.resize}")
        if self.interpolation not in _INTERPOLATIONS:
            raise UserError(f"preprocessing: interpolation must be one of {', '.join(_INTERPOLATIONS)}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise UserError("preprocessing: mean and std need three numbers each, std above zero")
        if self.resizing not in RESIZINGS:
            raise UserError(f"preprocessing: resizing must be one of {', '.join(RESIZINGS)}")
        if self.crop_first and self.interpolation != "bicubic":
            raise UserError(f"preprocessing: resizing {self.resizing} is bicubic, not {self.interpolation}")

    @property
    def crop_first(self) -> CropFirst | None:
        """How the image is cropped and resized where TensorFlow's way is followed, ``None`` where Pillow's is."""
        return CROP_FIRST.get(self.resizing)

    @property
    def says(self) -> str:
        """What happens to an image before it is normalised, in a few words."""
        if first := self.crop_first:
            share = self.input_size / self.resize
            crop = f"centre crop of {share:.4g} of the short side, then " if share < 1 else "centre crop, then "
            return f"{crop}{first.function} to {self.input_size} (bicubic without antialias)"
        return f"short side to {self.resize} ({self.interpolation}), centre crop {self.input_size}"

    def pixels(self, image: Image) -> NDArray[np.uint8]:
        """The crop of one PIL image of mode RGB: uint8 [input_size, input_size, 3].

        Raises:
            UnreadableImage: ``too-large``: so long and thin that it would be resized to more than
                ``MAX_RESIZED_PIXELS``.
        """
        if first := self.crop_first:
            return first.pixels(image, self._box(first, image), self.input_size)
        import numpy as np

        return np.array(self._centre(self._resize(image, MAX_RESIZED_PIXELS)))

    def ten_crops(self, image: Image) -> list[NDArray[np.uint8]]:
        """torchvision's ``TenCrop``: four corners and the centre of the resized image, then of its mirror image.

        Where the crop comes first, boxes of its size in these five places are resized, then mirrored.

        Returns:
            Ten uint8 [input_size, input_size, 3].

        Raises:
            UnreadableImage: as ``pixels``.
        """
        import numpy as np
        from PIL.Image import Transpose

        if first := self.crop_first:
            centre = self._box(first, image)
            side = centre[2] - centre[0]
            boxes = [*_corners(image.width, image.height, side), centre]
            five = [first.pixels(image, box, self.input_size) for box in boxes]
            return five + [np.ascontiguousarray(pixels[:, ::-1]) for pixels in five]
        resized = self._resize(image, MAX_RESIZED_PIXELS)
        crops = []
        for straight in (resized, resized.transpose(Transpose.FLIP_LEFT_RIGHT)):
            corners = _corners(straight.width, straight.height, self.input_size)
            crops += [np.array(straight.crop(box)) for box in corners] + [np.array(self._centre(straight))]
        return crops

    def whole(self, image: Image) -> NDArray[np.uint8]:
        """The resized image without a crop: uint8 [H, W, 3], the shorter of H and W is ``resize``.

        Raises:
            UnreadableImage: ``too-large``: it would have more than ``MAX_WHOLE_PIXELS``.
            UserError: a ``resizing`` that crops first knows no resized image.
        """
        import numpy as np

        self.require_whole()
        return np.array(self._resize(image, MAX_WHOLE_PIXELS))

    def require_whole(self) -> None:
        """UserError where there is no ``whole`` image."""
        if first := self.crop_first:
            raise UserError(
                f"--crops full: {first.function} resizes a square crop here, there is no resized image: "
                "use --crops center or ten"
            )

    def tiles(self, image: Image, rows: int, columns: int) -> list[NDArray[np.uint8]]:
        """The image cut into a grid of equal parts, to a pixel, each ``resized``; row by row.

        Of an image with fewer pixels than parts, neighbouring parts share them.
        """
        width, height = image.size
        tall = [_part(height, row, rows) for row in range(rows)]
        wide = [_part(width, column, columns) for column in range(columns)]
        return [self.resized(image, (left, top, right, bottom)) for top, bottom in tall for left, right in wide]

    def levels(self, image: Image) -> NDArray[np.float32]:
        """``pixels`` before they become whole numbers, of a ``resizing`` that crops first: float32 in 0..255."""
        first = self.crop_first
        if first is None:
            raise ValueError("Pillow gives bytes only")
        return first.levels(image, self._box(first, image), self.input_size)

    def resized(self, image: Image, box: Box) -> NDArray[np.uint8]:
        """A box (left, top, right, bottom) of an RGB image as ``pixels`` resizes: uint8 [input_size, input_size, 3]."""
        size = self.input_size
        if first := self.crop_first:
            return first.pixels(image, box, size)
        import numpy as np
        from PIL.Image import Resampling

        return np.asarray(image.resize((size, size), Resampling[self.interpolation.upper()], box=box))

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W, 3] in 0..255 to contiguous float32 [N, 3, H, W], (value / 255 - mean) / std."""
        import numpy as np

        scaled = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
        scaled /= np.float32(255)
        scaled -= np.array(self.mean, np.float32)[:, None, None]
        scaled /= np.array(self.std, np.float32)[:, None, None]
        return scaled

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict with one key per field (see ``resizing``), the inverse of ``from_json``."""
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if self.resizing == PILLOW:  # plans, manifests and configs from before there was another stay as they are
            del fields["resizing"]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """From ``to_json``'s dict.

        Raises:
            UserError: a missing or unknown key, or a value out of range.
        """
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown or not {"input_size", "resize"} <= set(fields):
            raise UserError(f"preprocessing: input_size and resize are needed, {unknown} not known")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)

    def _box(self, first: CropFirst, image: Image) -> Box:
        return first.box(image.width, image.height, self.input_size / self.resize)

    def _resize(self, image: Image, most: int) -> Image:
        from PIL.Image import Resampling

        from zoo.transforms.decode import UnreadableImage

        width, height = self._resized(image.width, image.height)
        if width * height > most:
            raise UnreadableImage("too-large", f"{width} x {height} pixels after resizing, too long and thin")
        if (width, height) == image.size:
            return image
        return image.resize((width, height), Resampling[self.interpolation.upper()])

    def _centre(self, image: Image) -> Image:
        left, top = round((image.width - self.input_size) / 2), round((image.height - self.input_size) / 2)
        return image.crop((left, top, left + self.input_size, top + self.input_size))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        # torchvision.transforms.functional._compute_resized_output_size, with its order of operations
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize


def _corners(width: int, height: int, side: int) -> list[Box]:
    """Squares at the top left, top right, bottom left and bottom right."""
    places = [(left, top) for top in (0, height - side) for left in (0, width - side)]
    return [(left, top, left + side, top + side) for left, top in places]


def _part(length: int, index: int, count: int) -> tuple[int, int]:
    start = index * length // count
    return start, max(start + 1, (index + 1) * length // count)
