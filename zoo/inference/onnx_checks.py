"""Refuse ONNX files that point to other files, before ONNX Runtime opens them.

A tensor of an ONNX file may lie in another file, given by path (``external_data``), which is read when the model is
loaded. ONNX Runtime 1.31 refuses paths outside of the model's folder, but opens files beside the model. The files of
``zoo export`` are self-contained, so every such tensor is refused here.

The check reads no more than it needs. Every external tensor has the key ``location``, stored as plain text, so a file
without this word is accepted (0.1 s for 100 MB; importing onnx alone takes 0.3 s). A file with the word is parsed with
the onnx library; where only ONNX Runtime is installed, it is refused.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from zoo.errors import UserError, reason_of
from zoo.system.shortage import raise_if_short


def require_self_contained(path: Path) -> None:
    """Check that an ONNX file refers to no other file.

    Raises:
        UserError: it does, it may do so and onnx is not installed to tell, or it cannot be read.
    """
    # Search the bytes first: most files cannot refer to others, and need no parser.
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(b"location") < 0:
                return
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise_if_short(error)
        raise UserError(f"{path} is not an ONNX file that can be read ({error})") from None
    try:
        import onnx
    except ImportError:
        raise UserError(f"{path} may refer to data in other files: pip install onnx to have it checked") from None
    # Parse the file without following its references.
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors depend on its implementation
        raise UserError(f"{path} is not an ONNX file that can be read ({reason_of(error)})") from None
    if _has_external_data(model):
        raise UserError(
            f"{path} refers to data in other files, which a file of somebody else could use to read yours: "
            "only self-contained files are opened (`zoo export` writes them)"
        )


def _has_external_data(message: Any) -> bool:
    """True if a protobuf message is, or contains at any depth, a tensor that lies in another file."""
    if message.DESCRIPTOR.name == "TensorProto":
        return bool(message.external_data) or message.data_location != 0
    for field, value in message.ListFields():
        if field.message_type is not None:
            children = [value] if hasattr(value, "ListFields") else value
            if any(_has_external_data(child) for child in children):
                return True
    return False
