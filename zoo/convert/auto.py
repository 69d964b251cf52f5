"""``zoo convert --from auto``: which kind of file it is, and the ResNet in a checkpoint of any training code."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zoo.convert.candidates import Candidate, find, joined, of_caffe, other_network
from zoo.convert.common import (
    OfficialCheckpoint,
    body_of,
    recognise,
    sequential,
    starting_with,
    unread_weights,
    unwrapped,
    without_module,
)
from zoo.convert.layouts import kinds_of_place
from zoo.convert.readers.tf_checkpoint import is_archive, tensor_names
from zoo.convert.readers.torch_checkpoint import read_torch
from zoo.errors import UserError, reason_of
from zoo.models.head_spec import read_layout
from zoo.models.other_files import refuse_file, refuse_folder

_BYTE = "0.00392157"  # 1 / 255: a standard deviation of one step of a byte, in pixels of 0..1
# Names of heads beside a backbone: lightly, solo-learn, lucidrains' and sthalles' BYOL (spelled so there).
_HEADS = {
    "projector": ("projection_head.layers.", "projection_head.", "projector.layers.", "projector.", "projetion.net."),
    "predictor": ("prediction_head.layers.", "prediction_head.", "predictor.layers.", "predictor."),
    "classifier": ("classifier.",),
}


def official_kind(path: Path) -> str | None:
    """Return the ``--from KIND`` that reads a file of an official code; ``None`` for any other checkpoint.

    Raises:
        UserError: the file is no checkpoint to convert; the message names the command that takes it.
    """
    if path.is_dir():
        return _kind_of_folder(path)
    with path.open("rb") as file:
        start = file.read(16)
    is_bundle = path.suffix in (".index", ".meta") or is_archive(path)
    if is_bundle or (start[:4] == b"PK\x03\x04" and not _is_torch_archive(path)):
        return _kind_of_bundle(path)
    _refuse_other_files(path, start)
    if path.suffix == ".pkl" and start[:1] == b"\x80" and not zipfile.is_zipfile(path) and _mentions(path):
        return "deepmind-byol"
    if path.suffix == ".safetensors" or (path.suffix == ".pkl" and not zipfile.is_zipfile(path)):
        return None
    checkpoint = read_torch(path)
    content = checkpoint.content
    if "recipe" in content and "method" in content:
        raise UserError(f"{path} is a checkpoint of zoo-train: `zoo-train export {path} --out ENCODER.safetensors`")
    # The memory bank is an object, which is not read; beside it the network's fc is a projector, not a classifier.
    if any(place.partition(".")[0] == "lemniscate" for place in checkpoint.dropped) and "state_dict" in content:
        return "lemniscate"
    return _kind_of_keys(content)


def read_official(path: Path, prefix: str | None, *, bgr: bool = False) -> OfficialCheckpoint:
    """Read the ResNet of a checkpoint of any training code, with the heads that are plain sequences of layers.

    Args:
        prefix: which network, where the file has several: the text before its keys, from the top of the file or from
            its innermost dict on.
        bgr: the user knows that it takes BGR images; whoever calls turns its first convolution.

    Raises:
        UserError: the file cannot be read, has no supported ResNet, or several and no ``prefix`` chooses one; or it
            seems to take BGR images, and ``bgr`` does not say so.
    """
    file = read_torch(path)
    tensors = joined(file.content)
    chosen = _choose(find(tensors), prefix, tensors, path, unread_weights(file.dropped))
    if chosen.problem:
        raise UserError(f"{path.name}: the network under {chosen.prefix!r} is not converted: {chosen.problem}")
    try:
        body = body_of(chosen.state)
    except ValueError as error:
        raise UserError(f"{path.name}: the network under {chosen.prefix!r} is not converted: {error}") from None
    if not bgr and (reason := of_caffe(path.name, file.content.get("__author__"), body)):
        raise UserError(
            f"{path.name} seems to be a network of Caffe, for BGR images ({reason}): --bgr turns its first convolution "
            f"to RGB, with --std {_BYTE},{_BYTE},{_BYTE} if it takes pixels of 0 to 255; --from torch reads it as it is"
        )
    try:
        architecture, encoder = recognise(body)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{path.name}: the network under {chosen.prefix!r} is no ResNet of this family ({reason_of(error)})"
        raise UserError(reason + unread_weights(file.dropped)) from None
    heads, used = _heads(chosen, tensors, architecture.num_features)
    # Tell the user what was found, and which tensors stay behind.
    inside = {k for k in tensors if k.startswith(chosen.prefix)}
    extra = len(chosen.state) - len(body) - sum(1 for k in chosen.state if k.startswith("fc.") and used["fc."])
    left_out = [k for k in tensors if k not in inside and not k.startswith(tuple(p for p in used if p != "fc."))]
    if extra:
        left_out += [
            chosen.prefix + k for k in chosen.state if k not in body and not (k.startswith("fc.") and used["fc."])
        ]
    stem = "3x3 stem, read as stride 1 without max-pool" if architecture.stem == "cifar" else "7x7 stem"
    found = f"a ResNet in {chosen.layout} under {chosen.prefix!r}, {stem}; heads: {', '.join(heads) or 'none'}"
    if any(["relu"] in read_layout(state) for state in heads.values()):
        found += " (their layers without tensors are read as ReLU)"
    if kinds := kinds_of_place(chosen.prefix):
        found += f"; if it is an official file, --from {' or '.join(kinds)} knows its heads, method and pixels"
    return OfficialCheckpoint(
        "unknown", architecture, encoder, heads, left_out=tuple(left_out), dropped=file.dropped, found=found
    )


def _choose(
    found: list[Candidate], prefix: str | None, tensors: Mapping[str, Tensor], path: Path, unread: str
) -> Candidate:
    if not found:
        first = ", ".join(list(tensors)[:3]) or "none"
        what = other_network(tensors) or f"its keys ({first}, ...) are no ResNet's"
        raise UserError(f"{path.name} holds no network that is read: {what[:300]}{unread}")
    listed = ", ".join(map(str, found[:10])) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
    if prefix is None:
        if len(found) > 1:
            kinds = dict.fromkeys(kind for candidate in found for kind in kinds_of_place(candidate.prefix))
            known = f"; if it is an official file, --from {' or '.join(kinds)} knows which" if kinds else ""
            raise UserError(f"{path.name} holds {len(found)} networks: choose one with --prefix: {listed}{known}")
        return found[0]
    same = [c for c in found if c.prefix == prefix] or [c for c in found if c.prefix.endswith(f".{prefix}")]
    if len(same) != 1:
        raise UserError(f"{path.name} holds {len(same) or 'no'} network under --prefix {prefix!r}; it has: {listed}")
    return same[0]


def _heads(
    chosen: Candidate, tensors: Mapping[str, Tensor], features: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, bool]]:
    """Return the heads by part, and the prefixes that they were taken from.

    A position without tensors is a ReLU, as in all these libraries. What is no plain sequence from the embedding on
    is left out.
    """
    heads: dict[str, dict[str, Tensor]] = {}
    used = {"fc.": False}
    # A single linear fc is a classifier; SimSiam's and SimCLR's layouts put a projector there.
    fc = sequential(starting_with(chosen.state, "fc."))
    if _fits(fc, features):
        used["fc."] = True
        heads["classifier" if set(fc) <= {"0.weight", "0.bias"} else "projector"] = fc
    parent = chosen.prefix.removesuffix(".").rpartition(".")[0]
    parent = f"{parent}." if parent else ""
    for part, names in _HEADS.items():
        for name in names:
            state = sequential(starting_with(tensors, parent + name))
            inputs = _outputs(heads["projector"]) if part == "predictor" and "projector" in heads else features
            if part in heads or parent + name == chosen.prefix or _has_more(tensors, parent + name):
                continue
            if _fits(state, inputs):
                heads[part] = state
                used[parent + name] = True
    return heads, used


def _has_more(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    """True where ``layers`` is only a part of a head: DINO's has a last layer beside it, and GELU between."""
    whole = prefix.removesuffix("layers.")
    return whole != prefix and any(key.startswith(whole) and not key.startswith(prefix) for key in tensors)


def _fits(state: Mapping[str, Tensor], features: int) -> bool:
    """True for a sequence of linear layers, norms and ReLUs whose widths agree, from the embedding on."""
    try:
        layout = read_layout(state)
    except (UserError, ValueError, KeyError):
        return False
    width, linear = features, 0
    for kind, *sizes in layout:
        if kind == "linear":
            if sizes[0] != width:
                return False
            width, linear = int(str(sizes[1])), linear + 1
        elif kind == "batch_norm" and sizes[0] != width:
            return False
    return linear > 0


def _outputs(state: Mapping[str, Tensor]) -> int:
    return next(int(str(sizes[1])) for kind, *sizes in reversed(read_layout(state)) if kind == "linear")


# ---------------------------------------------------------------- kinds of files


def _kind_of_folder(path: Path) -> str:
    if any(path.glob("*.index")):
        return _kind_of_bundle(path)
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        raise UserError(f"{path} is a converted model already: give it as --model, or to `zoo publish`")
    refuse_folder(path)
    raise UserError(f"{path} is a folder without a checkpoint: give the file of weights in it")


def _kind_of_bundle(path: Path) -> str:
    """Tell Local Aggregation's TensorFlow checkpoints from SimCLR's by the names of their variables."""
    index = path.with_suffix(".index") if path.suffix == ".meta" else path
    return "localagg" if any("resnet_model/" in name for name in tensor_names(index)) else "simclr"


def _refuse_other_files(path: Path, start: bytes) -> None:
    if path.suffix == ".onnx":
        raise UserError(f"{path} is an ONNX file: give it as --model; its weights are not converted")
    refuse_file(path, start)
    if path.suffix == ".safetensors":
        from zoo.models.state_dict import read_metadata

        if read_metadata(path).get("format", "").startswith("siamese-zoo"):
            raise UserError(f"{path} is an encoder of zoo-train already: give it as --model, or to `zoo publish`")


def _is_torch_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return True  # torch's reader says what is wrong
    if any(name.endswith(".npy") for name in names):
        raise UserError(f"{path} holds arrays of numpy, not a network: `--data` of `zoo evaluate` takes images so")
    return not any(name.endswith(".index") for name in names)


def _mentions(path: Path, word: bytes = b"experiment_state") -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(word) >= 0


def _kind_of_keys(content: Mapping[str, object]) -> str | None:
    """Recognise layouts of official codes: with heads of their own, or with several networks of which one is meant."""
    model = content.get("model")
    if isinstance(model, dict):
        one_channel = {without_module(str(k)) for k, v in model.items() if getattr(v, "shape", ())[1:2] == (1,)}
        if "encoder.l_to_ab.conv1.weight" in one_channel:
            return "cmc"
        if "encoder1.conv1.weight" in one_channel or (
            "model_ema" in content and "module.encoder.conv1.weight" in model
        ):
            return "pycontrast"
    inner = content.get("state_dict", content)
    try:
        keys = set(unwrapped({str(key): None for key in inner})) if isinstance(inner, dict) else set()
    except ValueError:
        return None
    # A fork of an official code that has one more network is none of it: the user says which is meant.
    block = ".layer1.0.conv1.weight"
    networks = {f".{key}".removesuffix(block) for key in keys if f".{key}".endswith(block)}
    has_prototypes = any(key.startswith("prototypes") for key in keys)
    if networks == {""} and {"conv1.weight", "projection_head.0.weight"} <= keys and has_prototypes:
        return "swav"
    if not isinstance(content.get("state_dict"), dict):
        return None
    if ".encoder_q" in networks and networks <= {".encoder_q", ".encoder_k"}:
        return "moco"
    if networks == {".base_encoder", ".momentum_encoder"}:
        return "mocov3"
    if networks == {".encoder"} and {"encoder.fc.0.weight", "predictor.0.weight"} <= keys:
        return "simsiam"
    return None
