"""Extractions in the real Embedding Atlas: its command reads the shards, lays them out and serves them."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from extraction_driver import run
from pictures import fill

pytest.importorskip("embedding_atlas", reason="too heavy for the dev extra: CONTRIBUTING.md says how to run this")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An extraction of 21 images, one of them unreadable, and the address of the server that shows the others."""
    (fill(tmp_path / "images") / "bad.jpg").write_bytes(b"bad")
    run(tmp_path / "images", tmp_path / "out")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    options = ["--vector", "embedding", "--query", "select * from data where status = 'ok'", "--umap-n-neighbors", "5"]
    place = ["--host", "127.0.0.1", "--port", str(port), "--no-auto-port"]
    command = [sys.executable, "-m", "embedding_atlas.cli", *shards, *options, *place]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HOME": str(tmp_path)})
        try:
            yield f"http://127.0.0.1:{port}", tmp_path
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def get(url: str, body: dict[str, Any] | None = None) -> bytes:
    """The answer, waited for while the server reads, embeds in the plane and starts."""
    end = time.monotonic() + 500
    while True:
        try:
            data = None if body is None else json.dumps(body).encode()
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
                content: bytes = answer.read()
                return content
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.mark.slow
def test_it_opens_shards_as_they_are(served: tuple[str, Path]) -> None:
    address, folder = served
    props = json.loads(get(f"{address}/data/metadata.json"))["props"]
    assert "projection_x" in json.dumps(props)
    shown = pq.read_table(io.BytesIO(get(f"{address}/data/dataset.parquet")))
    ours = pq.read_table(sorted((folder / "out").glob("*.parquet"))).filter(
        pq.filters_to_expression([("status", "=", "ok")])
    )
    assert shown["path"].to_pylist() == ours["path"].to_pylist()
    assert np.isfinite(shown["projection_x"].to_numpy()).all()
    np.testing.assert_array_equal(np.array(shown["embedding"].to_pylist()), np.array(ours["embedding"].to_pylist()))
    query = {"type": "json", "sql": "select count(*) as n, min(len(embedding)) as dim from dataset"}
    assert json.loads(get(f"{address}/data/query", query)) == [{"n": 20, "dim": 24}]
