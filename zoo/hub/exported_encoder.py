"""The files that ``zoo-train export`` writes: an encoder in safetensors with what it needs, and its heads beside it.

The file is not trusted: its metadata are checked before anything is built of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError, reason_of
from zoo.models.bounded_args import require_bounded_args
from zoo.models.config_reader import line_of_text, require_channels
from zoo.models.registry import ARCHITECTURES, Architecture
from zoo.models.state_dict import half_of, read_metadata, read_tensors, to_safetensors, without_counters
from zoo.system.atomic_files import atomic_write_bytes, sha256_file
from zoo.system.json_reader import whole
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "siamese-zoo encoder 1"
FORMAT_2 = "siamese-zoo encoder 2"  # names a padding or project_first, which versions before 0.3 would ignore
HEADS_SUFFIX = ".heads.safetensors"  # of the file of heads beside an exported encoder


@dataclass(frozen=True)
class EncoderFacts:
    """What the metadata of an exported encoder say; see ``zoo.hub.weights.WeightFile``."""

    architecture: Architecture
    preprocessing: Preprocessing
    method: str
    licence: str
    source: str


def read_facts(path: Path) -> EncoderFacts:
    """Read the metadata of an exported encoder.

    Raises:
        UserError: ``zoo-train export`` did not write the file, or this version does not understand its metadata.
    """
    metadata = read_metadata(path)
    if metadata.get("format") not in (FORMAT, FORMAT_2):
        raise UserError(f"{path} was not written by `zoo-train export`: it does not say its architecture")
    try:
        architecture = _architecture(metadata["architecture"])
        preprocessing = Preprocessing.from_json(json.loads(metadata["preprocessing"]))
        require_channels(preprocessing, architecture)
        texts = metadata["method"], metadata["licence"], metadata.get("source", "")
        return EncoderFacts(architecture, preprocessing, *map(line_of_text, texts))  # they are printed
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{path} has metadata that this version does not understand ({reason_of(error)}): export it again"
        ) from None


def read_heads(path: Path, encoder: Path, encoder_sha256: str | None) -> dict[str, dict[str, Tensor]]:
    """Return the heads of the file ``path`` by part, with the keys of an ``nn.Sequential``.

    Parts of a method of one's own that are no plain sequence of layers are left out.

    Args:
        encoder, encoder_sha256: the file of the encoder, and the hash that the file of heads must state.

    Raises:
        UserError: the heads belong to another encoder, or the file cannot be read.
    """
    from zoo.models.head_spec import PARTS, build_head, read_layout

    state, metadata = read_tensors(path)
    if metadata.get("encoder_sha256") != encoder_sha256:
        raise UserError(f"{path} does not belong to {encoder}: export both again, or move the file of heads away")
    found = {}
    for part in PARTS:
        own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
        own = without_counters(own)
        if set(own) <= {"weight", "bias"}:  # a single layer: SwAV's prototypes, a classifier
            own = {f"0.{key}": value for key, value in own.items()}
        try:
            layout = read_layout(own)
            expected = {k: v.shape for k, v in build_head(layout).state_dict().items()}
        except (ValueError, KeyError, UserError):
            continue
        if without_counters(expected) == {k: v.shape for k, v in own.items()}:
            found[part] = own
    return found


def save_encoder(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, object], *, half: bool = False) -> str:
    """Write an encoder, atomically, as a safetensors file that ``zoo.hub.weights.locate`` reads; returns its sha256.

    Args:
        metadata: ``architecture`` (a key of the registry, or a dict with such a ``name`` and a ``stem``; in a file of
            ``FORMAT_2`` also a ``padding`` and ``project_first``; for a timm name beside the registry also its
            ``model_args``, ``num_features`` and ``parameters``), ``method``, ``preprocessing``, ``licence``, and
            further JSON values that belong to the file.
        half: store convolutions in float16; BN stays float32.
    """
    tensors = half_of(state, half=half)
    texts = {"format": FORMAT} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    atomic_write_bytes(path, to_safetensors(tensors, texts))
    return sha256_file(path)


def _architecture(text: str) -> Architecture:
    """Parse a name of the registry, or JSON of ``save_encoder``'s dict; the file is not trusted."""
    # A plain name means an architecture of the table.
    if not text.startswith("{"):
        return ARCHITECTURES[text]
    # Otherwise the text holds the changes to one.
    values = json.loads(text)
    stem, padding, project_first = (
        values["stem"],
        values.get("padding", "symmetric"),
        values.get("project_first"),
    )
    # Refuse values that this version cannot build.
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"unknown stem {stem!r}")
    if padding not in ("symmetric", "same", "same-pool"):
        raise ValueError(f"unknown padding {padding!r}")
    known = ARCHITECTURES[values["name"]] if values["name"] in ARCHITECTURES else _timm_architecture(values)
    project_first = known.project_first if project_first is None else project_first
    if project_first is not False and (project_first is not True or not known.can_project_first):
        raise ValueError(f"project_first={project_first!r} of {values['name']}")
    found = known.variant(stem=stem, padding=padding, project_first=project_first)
    if not found.is_resnet and (stem, padding, project_first) != ("imagenet", "symmetric", False):
        raise ValueError(f"stem or padding of {values['name']}, which is no ResNet")
    return found


def _timm_architecture(values: Mapping[str, Any]) -> Architecture:
    """Parse a network that the registry lacks; its name is one of timm's, which is checked when it is built."""
    name, args = str(values["name"]), values["model_args"]
    if not isinstance(args, dict):
        raise ValueError("model_args is no mapping")
    require_bounded_args(name, args)
    return Architecture(line_of_text(name), whole(values["num_features"]), whole(values["parameters"]), args)  # type: ignore[arg-type]
