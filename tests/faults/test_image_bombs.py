"""Files made to exhaust a decoder: refused by a ceiling or by the list of formats, in bounded memory and time."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from pictures import encode
from PIL import Image

MEASURE = """
import json, re, sys, time
from concurrent.futures import ThreadPoolExecutor
from zoo.transforms.decode import UnreadableImage, decoded, read_bytes
from zoo.transforms.preprocess import Preprocessing

def one(path):
    start = time.monotonic()
    try:
        with decoded(read_bytes(path)) as image:
            Preprocessing(224, 256).pixels(image)
            reason = "ok"
    except UnreadableImage as error:
        reason = error.reason
    return reason, time.monotonic() - start

with ThreadPoolExecutor(4) as pool:
    answers = list(pool.map(one, sys.argv[1:]))
with open("/proc/self/status") as status:  # resource.getrusage counts the parent before exec, too
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]) / 1024
print(json.dumps([answers, peak]))
"""


def measure(*paths: Path) -> tuple[list[tuple[str, float]], float]:
    """(reason, seconds) of each file, decoded four at a time in a process of their own, and its peak MiB."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answers, peak = json.loads(done.stdout)
    return [tuple(answer) for answer in answers], peak


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def plain_png(width: int, height: int, pixel: bytes = b"") -> bytes:
    """An image of one colour: RGBA where ``pixel`` has four bytes, else 1-bit black. Pillow takes seconds for it."""
    row = b"\0" + (pixel * width if pixel else bytes((width + 7) // 8))
    kind = b"\x08\x06" if pixel else b"\x01\x00"
    head = png_chunk(b"IHDR", struct.pack(">II", width, height) + kind + b"\0\0\0")
    data = png_chunk(b"IDAT", zlib.compress(row * height, 1))
    return b"\x89PNG\r\n\x1a\n" + head + data + png_chunk(b"IEND", b"")


def gif(frames: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02\x08\x84\x8f\xa9\xcb\xed\x0f\xa3\x2b\x00"
    return head + frame * frames + b"\x3b"


pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory with /proc")


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bombs")
    small = encode(Image.new("RGB", (8, 8)), "PNG")
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1))
    files = {
        **{f"{side}.png": plain_png(side, side) for side in (9000, 13000, 16000)},
        "line.png": plain_png(1, 100_000_000),
        "text.png": small[:33] + text + small[33:],
        "frames.gif": gif(100_000),
        "drawing.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\nshowpage\n",
        "canvas.webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\xff\xff" * 2,
        "screen.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + b"\0" * 40,
        "strip.png": plain_png(200_000, 2),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


def test_bombs_are_refused_in_bounded_memory_and_time(bombs: dict[str, Path]) -> None:
    answers, peak = measure(*bombs.values())
    reasons = dict(zip(bombs, (reason for reason, _ in answers), strict=True))
    assert reasons.pop("frames.gif") == "ok", "its first frame is an image like any other"
    assert reasons.pop("drawing.jpg") == "not-an-image"
    assert reasons.pop("text.png") in ("too-large", "corrupt")
    assert reasons.pop("canvas.webp") in ("too-large", "corrupt")
    assert reasons.pop("screen.gif") in ("too-large", "truncated", "corrupt")
    assert set(reasons.values()) == {"too-large"}
    assert max(seconds for _, seconds in answers) < 5
    assert peak < 1024


def test_the_largest_images_allowed_at_once_stay_within_a_gigabyte(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    paths[0].write_bytes(plain_png(7900, 7900, bytes((200, 100, 50, 128))))
    for path in paths[1:]:
        path.write_bytes(paths[0].read_bytes())
    answers, peak = measure(*paths)
    assert [reason for reason, _ in answers] == ["ok"] * 4
    assert peak < 1024
