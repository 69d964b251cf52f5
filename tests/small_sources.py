"""Small sources of images, and what is read of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pictures import encode, picture

from zoo.sources.base import rows_of


def png(seed: int) -> bytes:
    return encode(picture(seed=seed), "PNG")


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for shard in sorted(out.glob("embeddings-*.parquet")) for row in pq.read_table(shard).to_pylist()]


def names(source: Any) -> list[bytes]:
    found: list[bytes] = source.listing().files["path"].to_pylist()
    return found


def read_all(source: Any) -> list[bytes]:
    files = source.listing().files
    return [source.read(row) for row in rows_of(files, np.arange(len(files)))]


def tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


IMAGES = [png(n) for n in range(4)]
