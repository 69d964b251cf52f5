"""A small folder as of a model, sent to the hub of ``hub_server`` and fetched from there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from zoo.hub import hf_download, hf_upload
from zoo.hub.hf_download import Reference, Snapshot

REPO = "org/model"
WEIGHTS = b"weights" * 30_000
_OWNED = ("model.safetensors", "heads.safetensors")


def make_folder(folder: Path, weights: bytes = WEIGHTS, **more: bytes) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    sha256 = {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    (folder / "config.json").write_text(json.dumps(sha256))
    (folder / "README.md").write_text("---\nlicense: mit\n---\ncard\n")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "knn.yaml").write_text("- value: 1\n")
    for name, data in more.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    return folder


def upload(folder: Path, **options: Any) -> hf_upload.Uploaded:
    return hf_upload.upload(folder, REPO, message="weights", owned=_OWNED, **options)


def download(revision: str | None = None, repo: str = REPO) -> Snapshot:
    return hf_download.download(Reference(repo, revision), "config.json", lambda path: json.loads(path.read_text()))
