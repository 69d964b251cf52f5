"""Convert loaded images to upright, opaque ones of mode RGB, and keep what a caller must know of them."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageOps

from zoo.transforms.limits import DecodeOptions
from zoo.transforms.stored_form import DRAWN, WHITE_IS_ZERO
from zoo.transforms.unreadable import UnreadableImage, decoder_error

NOTES, DEEP, WHOLE = "zoo.notes", "zoo.deep", "zoo.whole"  # keys of an image's info
_WHITE = (255, 255, 255)
_STARTS_RIGHT, _STARTS_BELOW, _EXCHANGED = (2, 3, 6, 7), (3, 4, 7, 8), (5, 6, 7, 8)  # EXIF orientations
_BAD_PROFILE = "profile-ignored: it cannot be read, or is one of other pixels"
_ORIENTATION_TAG = 0x0112
_ORIENTATION_KEYS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for it
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class WholeImage:
    """The image of which a decoded one has all pixels, or a reduced form.

    Attributes:
        width, height: size of the upright image in its file.
        box: where it lies in the decoded image, in pixels of that: left, top, right, bottom. A reduced JPEG ends in the
            middle of a pixel where its sides are no multiple of the reduction.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]

    @property
    def reduction(self) -> float:
        """Pixels of the file to a pixel of the decoded image, on each axis; 1 where none is left out."""
        return self.width / (self.box[2] - self.box[0])

    def part(self, box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
        """Return where a box of the whole image lies in the decoded image."""
        scale, (left, top, right, bottom) = self.reduction, self.box
        if scale == 1:
            return box
        end = (min(right, left + box[2] / scale), min(bottom, top + box[3] / scale))
        return left + box[0] / scale, top + box[1] / scale, *end


def whole_of(image: Image.Image) -> WholeImage:
    """Return the size of the file's image and where it lies in ``image``, for any PIL image."""
    found = image.info.get(WHOLE)
    if isinstance(found, WholeImage):
        return found
    return WholeImage(image.width, image.height, (0, 0, image.width, image.height))


def notes_of(image: Image.Image) -> tuple[str, ...]:
    """Return what a user should know of a decoded image, each as "NAME: TEXT"; empty for nearly all images."""
    return tuple(image.info.get(NOTES, ()))


def loaded_to_rgb(image: Image.Image, options: DecodeOptions) -> Image.Image:
    """Convert a loaded image; its notes go along."""
    try:
        upright = _upright(image)
        has_profile = options.icc == "convert" and "icc_profile" in upright.info
        if upright.mode == "RGB" and "transparency" not in upright.info and not has_profile:
            rgb, notes = upright, list(notes_of(image))
        else:
            rgb, notes = _rgb(upright, options, list(notes_of(image)))
        if (drawn := upright.info.get(DRAWN)) is not None:
            rgb = _over_white(rgb, drawn)
        if upright.info.get(DEEP):
            from zoo.transforms.colour import DARK, is_dark_16

            highest = max(high for _, high in rgb.getextrema())  # type: ignore[misc]
            notes += [DARK] if is_dark_16(highest * 256, options.white16) else []
        rgb.info[NOTES] = tuple(notes)
        if WHOLE in upright.info:
            rgb.info[WHOLE] = upright.info[WHOLE]
        return rgb
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise decoder_error(error) from error


def _upright(image: Image.Image) -> Image.Image:
    # Pillow applies a TIFF's orientation, which is an ordinary tag there, while loading.
    if image.format == "TIFF":
        return image
    # Look the rotation up in EXIF.
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a broken EXIF block does not damage the pixels
        return image
    method = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    if method is None or not isinstance(orientation, int):
        return image
    # Rotate the pixels, and drop the tags.
    upright = image.transpose(method)
    for key in _ORIENTATION_KEYS:  # the next reader of this image must not rotate it again
        upright.info.pop(key, None)
    if WHOLE in image.info:
        upright.info[WHOLE] = _turned(image.info[WHOLE], orientation, upright.size)
    return upright


def _turned(whole: WholeImage, orientation: int, size: tuple[int, int]) -> WholeImage:
    """Turn the place of a whole image with the pixels.

    Args:
        size: of the turned pixels.
    """
    width, height, sides = whole.width, whole.height, whole.box[2:]
    if orientation in _EXCHANGED:
        width, height, sides = height, width, (sides[1], sides[0])
    left, right = (size[0] - sides[0], size[0]) if orientation in _STARTS_RIGHT else (0, sides[0])
    top, bottom = (size[1] - sides[1], size[1]) if orientation in _STARTS_BELOW else (0, sides[1])
    return WholeImage(width, height, (left, top, right, bottom))


def _rgb(image: Image.Image, options: DecodeOptions, notes: list[str]) -> tuple[Image.Image, list[str]]:
    """Convert to mode RGB, opaque. Notes are added to ``notes``."""
    profile = image.info.get("icc_profile") if options.icc == "convert" else None
    if options.icc == "convert" and "icc_profile" in image.info and not profile:
        notes.append(_BAD_PROFILE)
    if image.mode == "F":
        raise UnreadableImage("unsupported", "floating-point pixels: the file does not say which is white")
    if image.mode.startswith("I"):
        return _gray16_to_rgb(image, profile, options, notes), notes
    colours = _without_profile(image, profile, notes) if profile else None
    # Writers that know no alpha leave its byte 0, in a bitmap whose header declares it: no viewer shows nothing then.
    is_opaque = image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)
    if is_opaque or not image.has_transparency_data:
        return colours or image.convert("RGB"), notes
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    opaque = Image.new("RGB", image.size, _WHITE)
    opaque.paste(colours or layer, mask=layer)
    return opaque, notes


def _over_white(image: Image.Image, drawn: tuple[int, int, int, int]) -> Image.Image:
    """Return an image of which only a box was drawn; the rest is transparent, as browsers show it."""
    whole = Image.new("RGB", image.size, _WHITE)
    whole.paste(image.crop(drawn), drawn[:2])
    return whole


def _without_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image | None:
    from zoo.transforms.colour import to_srgb

    converted = to_srgb(image, profile)
    if converted is None:
        notes.append(_BAD_PROFILE)
    return converted


def _gray16_to_rgb(image: Image.Image, profile: bytes | None, options: DecodeOptions, notes: list[str]) -> Image.Image:
    from zoo.transforms.colour import DARK, gray16_to_8, is_dark_16

    gray = image.convert("I")
    low, high = gray.getextrema()
    if low < 0 or high > 65535:  # type: ignore[operator]
        raise UnreadableImage("unsupported", f"integer pixels from {low} to {high}, not within 0 to 65535")
    is_inverted = bool(image.info.get(WHITE_IS_ZERO))
    if is_dark_16(int(high), options.white16):  # type: ignore[arg-type]
        notes.append(DARK.replace("black", "white") if is_inverted else DARK)
    eight = gray16_to_8(gray, options.white16)
    eight = ImageOps.invert(eight) if is_inverted else eight
    rgb = (_without_profile(eight, profile, notes) if profile else None) or eight.convert("RGB")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        is_transparent = [255 if value == transparent else 0 for value in range(65536)]
        rgb.paste(_WHITE, mask=gray.point(is_transparent, "L"))
    return rgb
