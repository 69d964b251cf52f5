"""``--decode scaled``: large JPEGs are decoded to fewer pixels, and the result says so."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import encode, picture
from PIL import Image

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.embeddings.verify import verify
from zoo.errors import UserError
from zoo.extraction import pipeline
from zoo.extraction.pipeline import Times
from zoo.search.collection import Collection
from zoo.search.query import embed_bytes, open_model
from zoo.transforms.decode import decoded
from zoo.transforms.limits import DecodeOptions
from zoo.transforms.preprocess import Preprocessing
from zoo.transforms.unreadable import UnreadableImage
from zoo.transforms.upright_rgb import whole_of

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"
SCALED = DecodeOptions(decode="scaled")
TO_64 = Preprocessing(input_size=56, resize=64)


def smooth(width: int, height: int) -> Image.Image:
    """A picture of soft edges: what a resize makes of it depends on its place, not on noise."""
    return picture(12, 9, seed=3).resize((width, height), Image.Resampling.BICUBIC)


def pixels(data: bytes, options: DecodeOptions, how: Preprocessing = TO_64, kind: str = "pixels") -> list[Any]:
    with decoded(data, options=options, reduction=how.reduction) as image:
        if kind == "tiles":
            return how.tiles(image, 2, 3)
        found = getattr(how, kind)(image)
        return found if isinstance(found, list) else [found]


def tiles_at(rows: int, columns: int, data: bytes) -> tuple[int, int]:
    def reduction(width: int, height: int) -> float:
        return TO_64.reduction(width, height, (rows, columns))

    with decoded(data, options=SCALED, reduction=reduction) as image:
        return image.size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((255, 400), 1), ((256, 300), 2), ((511, 800), 2), ((512, 512), 4), ((1023, 1400), 4), ((1024, 1024), 8),
        ((4096, 3072), 8),
    ],
)  # fmt: skip
def test_twice_the_resized_side_is_left(size: tuple[int, int], expected: int) -> None:
    for oriented in (size, size[::-1]):
        data = encode(smooth(*oriented), "JPEG")
        with decoded(data, options=SCALED, reduction=TO_64.reduction) as image:
            assert image.size == tuple(-(-side // expected) for side in oriented)
            whole = whole_of(image)
            assert (whole.width, whole.height) == oriented
            assert whole.reduction == pytest.approx(expected)
    with decoded(encode(smooth(*size), "JPEG")) as image:
        assert image.size == size, "exact is the default"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["pixels", "whole", "ten_crops", "tiles"])
def test_scaled_pixels_lie_where_exact_ones_do(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # No side is a multiple of the reduction: the last pixel of the decoder lies half outside.
    data = encode(smooth(1241, 1033), "JPEG", quality=95, exif=exif)
    exact, scaled = (pixels(data, options, kind=kind) for options in (DecodeOptions(), SCALED))
    assert [a.shape for a in exact] == [a.shape for a in scaled]
    for a, b in zip(exact, scaled, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 3
    assert any((a != b).any() for a, b in zip(exact, scaled, strict=True)), "it was scaled"


def test_tiles_keep_twice_their_own_size() -> None:
    data = encode(smooth(1344, 1344), "JPEG")
    assert tiles_at(1, 1, data) == (168, 168)
    assert tiles_at(1, 3, data) == (336, 336)
    assert tiles_at(6, 1, data) == (672, 672)
    assert tiles_at(7, 7, data) == (1344, 1344)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_other_formats_are_decoded_whole(format: str) -> None:
    data = encode(smooth(600, 600), format)
    exact, scaled = (pixels(data, options) for options in (DecodeOptions(), SCALED))
    assert np.array_equal(exact, scaled)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_is_scaled(mode: str, progressive: bool) -> None:
    data = encode(smooth(640, 512).convert(mode), "JPEG", quality=95, progressive=progressive)
    with decoded(data, options=SCALED, reduction=TO_64.reduction) as image:
        assert (image.mode, image.size) == ("RGB", (160, 128))
    exact, scaled = (pixels(data, options)[0].astype(int) for options in (DecodeOptions(), SCALED))
    assert np.abs(exact - scaled).max() <= 3


def test_two_pictures_in_one_file_give_the_first() -> None:
    file = io.BytesIO()
    smooth(640, 512).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (640, 512))], quality=95)
    exact, scaled = (pixels(file.getvalue(), options)[0].astype(int) for options in (DecodeOptions(), SCALED))
    assert 0 < np.abs(exact - scaled).max() <= 3


def test_damaged_files_have_the_same_status() -> None:
    sound = encode(smooth(640, 512), "JPEG")
    for data in (sound[:-2000], sound[:700], sound[:2] + bytes(500)):
        found = []
        for options in (DecodeOptions(), SCALED):
            with pytest.raises(UnreadableImage) as error, decoded(data, options=options, reduction=TO_64.reduction):
                pass
            found.append(str(error.value))
        assert found[0] == found[1]
    # Only the end marker is missing, or the rest is accepted.
    assert np.array_equal(pixels(sound[:-2], DecodeOptions()), pixels(sound[:-2], SCALED))
    accepted = [DecodeOptions(truncated="accept"), DecodeOptions(truncated="accept", decode="scaled")]
    assert np.array_equal(*(pixels(sound[:-2000], options) for options in accepted))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 12 megapixels, made of small ones, and a small one."""
    folder = tmp_path_factory.mktemp("large")
    for path in sorted(PHOTOS.glob("*.jpg"))[::9]:
        image = Image.open(path).convert("RGB")
        factor = (12e6 / (image.width * image.height)) ** 0.5
        side = (round(image.width * factor), round(image.height * factor))
        image.resize(side, Image.Resampling.BICUBIC).save(folder / path.name, quality=90)
    (folder / "small.png").write_bytes(encode(picture(90, 70), "PNG"))
    return folder


def extract(photos: Path, out: Path, **options: Any) -> Any:
    return zoo.extract(photos, out, backend="torch", device="cpu", **options)


def table(out: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(out / "embeddings-00000.parquet").to_pylist()}


def test_embeddings_of_large_photographs_hardly_move_and_the_choice_is_remembered(large: Path, tmp_path: Path) -> None:
    exact, scaled = (extract(large, tmp_path / decode, decode=decode).folder for decode in ("exact", "scaled"))
    before, after = table(exact), table(scaled)
    for path, row in before.items():
        other = after[path]
        assert {**row, "embedding": 0} == {**other, "embedding": 0}, "sizes are those of the file"
        a, b = np.array(row["embedding"]), np.array(other["embedding"])
        moved = np.linalg.norm(a - b) / np.linalg.norm(a)
        assert moved < 0.01
        assert (moved == 0) == (path == "small.png")
    manifests = [json.loads((out / "_manifest.json").read_bytes()) for out in (exact, scaled)]
    assert "jpeg_scaling" not in manifests[0]["decoder"]
    assert manifests[1]["decoder"] == {**manifests[0]["decoder"], "jpeg_scaling": "DCT, at least 2x"}
    verify(scaled)
    # A run goes on with the same choice only.
    assert extract(large, scaled, decode="scaled").reused == len(after)
    with pytest.raises(UserError, match=r"decoder\.jpeg_scaling none there, DCT"):
        extract(large, exact, decode="scaled")
    with pytest.raises(UserError, match=r"decoder\.jpeg_scaling DCT.* there, none now"):
        extract(large, scaled)
    # A query is decoded as the collection was.
    name = next(path for path in after if path.endswith(".jpg"))
    for out, rows in ((exact, before), (scaled, after)):
        collection = Collection(out)
        vector = embed_bytes(
            open_model(collection, device="cpu"), (large / name).read_bytes(), 10**8, collection.decode_options
        )
        np.testing.assert_allclose(vector, np.array(rows[name]["embedding"]), rtol=1e-4, atol=1e-5)


def test_a_model_that_skips_pixels_is_refused() -> None:
    byol = Preprocessing(input_size=56, resize=64, resizing="byol")
    nearest = Preprocessing(input_size=56, resize=64, interpolation="nearest")
    for how in (byol, nearest):
        assert how.reduction(4000, 3000) == 1
        with pytest.raises(UserError, match="--decode scaled: this model resizes without antialias"):
            how.require_antialias()
    TO_64.require_antialias()


def test_an_unknown_choice_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown decode 'fast': choose exact or scaled"):
        extract(tmp_path, tmp_path / "out", model="no such model", decode="fast")


def test_the_gain_is_told_where_decoding_took_most_of_a_run() -> None:
    def gain(waited: float, scalable: float, seconds: float) -> float | None:
        return Times(waited=waited, images=2 * waited, scalable=2 * waited * scalable).scaled_gain(seconds)

    assert gain(90, 1, 100) == pytest.approx(100 / 28)
    assert gain(90, 0.5, 100) == pytest.approx(100 / 64)
    assert gain(40, 1, 100) is None, "the network took most"
    assert gain(90, 0.1, 100) is None, "few large JPEGs"
    assert gain(9, 1, 10) is None, "too short a run to care"
    assert Times().scaled_gain(0) is None


@pytest.mark.parametrize(
    ("words", "told"), [((), True), (("--decode", "scaled"), False), (("--quiet",), False), (("png",), False)]
)
def test_the_command_tells_once_what_scaled_would_give(
    large: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    told: bool,
) -> None:
    monkeypatch.setattr(pipeline, "_WORTH_SECONDS", 0)
    monkeypatch.setattr(pipeline, "_LEAST_SHARE", 0)
    images = large
    if words == ("png",):
        images = tmp_path / "pngs"
        images.mkdir()
        (images / "a.png").write_bytes((large / "small.png").read_bytes())
        words = ()
    common = ["extract", str(images), "--out", str(tmp_path / "out"), "--backend", "torch", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["zoo", *common, *words])
    assert exit_code(app, "zoo", "run it again") == 0
    said = capsys.readouterr().err
    assert said.count("--decode scaled would be about") == told
    # A run that only looks does not say it again.
    assert exit_code(app, "zoo", "run it again") == 0
    assert "--decode scaled" not in capsys.readouterr().err


def test_options_survive_the_manifest() -> None:
    for options in (SCALED, DecodeOptions(), DecodeOptions("convert", "accept", 4095, "scaled")):
        assert DecodeOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
