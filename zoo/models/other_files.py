"""What users give as a model that is none: a message that names the command which takes it. Needs no torch."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from zoo.errors import UserError

_TORCH = (b"PK\x03\x04", b"\x80")  # an archive of torch.save, or a plain pickle


def require_regular(path: Path) -> None:
    """Raise UserError for a pipe, a socket or a device: reading one may never end. What is not there passes."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # the reader reports why the file cannot be read
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise UserError(f"{path} is a {kind}, not a file: save the model in a file first")


def refuse_folder(path: Path) -> None:
    """Raise UserError for a run of zoo-train and for a result of ``zoo extract``."""
    if (path / "last.json").is_file() or any(path.glob("checkpoint-*.pt")):
        raise UserError(f"{path} is a run of zoo-train: `zoo-train export {path} --out ENCODER.safetensors`")
    if (path / "_manifest.json").is_file() or (path / "manifest.json").is_file():
        raise UserError(
            f"{path} holds embeddings of `zoo extract`, not a network: `zoo index` and `zoo search` take it"
        )


def refuse_file(path: Path, start: bytes) -> None:
    """Raise UserError for images, tables, HDF5 files, web pages and pointers of Git LFS.

    Args:
        start: the first 16 bytes of the file.
    """
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")):
        raise UserError(f"{path} is an image: `zoo extract --images` takes it")
    if start.startswith(b"PAR1"):
        raise UserError(f"{path} is a table of Parquet: `zoo extract --images` takes a table of images")
    if start.startswith(b"\x89HDF"):
        raise UserError(f"{path} is an HDF5 file, as Keras writes: only torch, safetensors and official files are read")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page, not weights: download the file that the page is about")
    if start.startswith(b"version https://"):
        raise UserError(f"{path} is a pointer of Git LFS: run `git lfs pull`")


def refuse_others(path: Path) -> None:
    """Raise UserError for what is there and is surely no model of the zoo; anything else passes.

    Besides the files and folders above: checkpoints that have to be exported or converted first, and ONNX files, which
    have no weights to load.
    """
    if os.path.isdir(path):
        refuse_folder(path)
        return
    require_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except (OSError, ValueError):  # the reader of weights reports why the file cannot be read
        return
    if start[8:9] == b"{":  # safetensors: eight bytes that can be any, and a JSON header
        return
    if not start:
        raise UserError(f"{path} is not a safetensors file: it is empty")
    refuse_file(path, start)
    if path.suffix == ".onnx":
        raise UserError(f"{path} is an ONNX file, and weights are needed here: give what it was exported from")
    if start.startswith(_TORCH) and path.name.startswith("checkpoint-"):
        raise UserError(f"{path} is a checkpoint of a run: `zoo-train export {path} --out ENCODER.safetensors`")
    if start.startswith(_TORCH):
        raise UserError(f"{path} is a checkpoint of torch: `zoo convert {path} --out MODEL` makes a model of it")
