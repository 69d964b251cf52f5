"""The fingerprint of an extraction: everything besides the images that decides the bytes of its result.

It is frozen in the plan and repeated in the manifest, as the same JSON. It stands in this folder and not in
``zoo.extraction``, because plan, shards and manifest read it; ``zoo.extraction.fingerprint`` makes it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from zoo.inference.outputs import EMBEDDING
from zoo.models.registry import MODELS, split_name
from zoo.system.json_reader import BadJson, fields, items, number, text, whole
from zoo.system.json_types import JSON
from zoo.system.terminal import printable
from zoo.transforms.limits import DecodeOptions

_OWN = frozenset(
    ("dim", "versions", "outputs", "decoder", "format", "dtype", "batch_size", "shard_size", "keep", "dedupe")
)
_TEXTS = ("model", "backend", "device", "precision", "crops")  # of ``network``, where they are there
_OUTPUT = re.compile(r"[a-z0-9_]{1,64}")  # a name of an output: it becomes part of a file's name
_MAX_NUMBERS = 2**31  # in an output of an image; maps of layer1 at 1024 pixels have 2**24
_MAX_AXES = 8
MAX_ROWS = 2**40
"""Limit of rows in a shard, and of images in a batch."""
FORMATS = ("parquet", "npy", "safetensors")
DTYPES = ("float32", "float16")
_SHOWN_MOST = 200  # characters of a value in a message
_SHOWN_DIGITS = 16  # of a hash, enough to tell two apart


@dataclass(frozen=True)
class Fingerprint:
    """Everything besides the images that decides the bytes of a result.

    Attributes:
        network: what the model says of itself: name, hash of the weights, preprocessing, backend, device, precision.
            Keys that this version does not know are kept here.
        dim: length of an embedding.
        outputs: shapes of the other outputs of an image, by name.
        decoder: rules and versions of image decoding, with ``max_pixels``.
        format: ``parquet``, ``npy`` or ``safetensors``.
        stored_dtype: type of the vectors; ``None`` in a plan that does not say it, see ``dtype``.
        batch_size: crops in a forward pass.
        shard_size: images in a shard.
        keep: columns of the source that the result carries.
        versions: of the libraries that decide the bytes.
        near_threshold: cosine from which on two images are near duplicates, or ``auto``: it is chosen from the
            collection; ``None`` where no duplicates are looked for.
    """

    network: Mapping[str, JSON]
    dim: int
    format: str
    batch_size: int
    shard_size: int
    stored_dtype: str | None = None
    outputs: Mapping[str, tuple[int, ...]] | None = None
    decoder: Mapping[str, JSON] | None = None
    keep: tuple[str, ...] | None = None
    versions: Mapping[str, JSON] | None = None
    near_threshold: float | Literal["auto"] | None = None

    @property
    def dtype(self) -> str:
        """Type of the vectors: ``float32`` or ``float16``."""
        return self.stored_dtype or "float32"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all outputs of an image in the order they are written, ``embedding`` first."""
        others = self.outputs or {}
        return {EMBEDDING: (self.dim,), **{name: others[name] for name in sorted(others)}}

    @property
    def dedupe(self) -> bool:
        """Whether duplicates are looked for."""
        return self.near_threshold is not None

    @property
    def max_pixels(self) -> int:
        """Limit of pixels of one image; larger ones are refused."""
        return whole((self.decoder or {}).get("max_pixels"), 1)

    @property
    def image_column(self) -> str | None:
        """Column of a table that holds the images, where a user named it."""
        found = self.network.get("image_column")
        return found if isinstance(found, str) else None

    @property
    def decode_options(self) -> DecodeOptions:
        """The choices about decoding, as they stand in ``decoder``."""
        return DecodeOptions.from_json(self.decoder or {})

    @property
    def on_cpu(self) -> bool:
        """Whether the network runs on the CPU."""
        return self.network.get("device") == "cpu"

    def to_json(self) -> dict[str, JSON]:
        """Return the JSON object of a plan and a manifest; ``from_json`` reads it."""
        # Absent fields stay out of the JSON, so that an older plan keeps its key.
        own: dict[str, JSON] = {
            "dim": self.dim,
            "versions": None if self.versions is None else dict(self.versions),
            "outputs": None if self.outputs is None else {name: list(shape) for name, shape in self.outputs.items()},
            "decoder": None if self.decoder is None else dict(self.decoder),
            "format": self.format,
            "dtype": self.stored_dtype,
            "batch_size": self.batch_size,
            "shard_size": self.shard_size,
            "keep": None if self.keep is None else list(self.keep),
            "dedupe": None if self.near_threshold is None else {"near": self.near_threshold},
        }
        return {**self.network, **{name: value for name, value in own.items() if value is not None}}

    @classmethod
    def from_json(cls, value: Mapping[str, JSON]) -> Fingerprint:
        """Read ``to_json``'s object; a key that is not there stays away when it is written again.

        Raises:
            BadJson: it is not the object of a fingerprint, or a value is out of its range.
        """
        value = fields(value, "dim", "format", "batch_size", "shard_size")
        dedupe, outputs, keep, decoder, versions = (
            value.get(key) for key in ("dedupe", "outputs", "keep", "decoder", "versions")
        )
        network = {key: item for key, item in value.items() if key not in _OWN}
        for key in _TEXTS:
            if network.get(key) is not None:
                text(network[key])
        if decoder is not None and "max_pixels" in fields(decoder):
            whole(fields(decoder)["max_pixels"], 1)
        return cls(
            network=network,
            dim=whole(value["dim"], 1, _MAX_NUMBERS),
            format=_one_of(value["format"], FORMATS),
            batch_size=whole(value["batch_size"], 1),
            shard_size=whole(value["shard_size"], 1, MAX_ROWS),
            stored_dtype=None if value.get("dtype") is None else _one_of(value["dtype"], DTYPES),
            outputs=None if outputs is None else {_output(k): _shape(v) for k, v in fields(outputs).items()},
            decoder=None if decoder is None else fields(decoder),
            keep=None if keep is None else tuple(map(text, items(keep))),
            versions=None if versions is None else fields(versions),
            near_threshold=None if dedupe is None else _near(fields(dedupe, "near")["near"]),
        )

    def canonical(self) -> bytes:
        """Return the JSON with sorted keys and without spaces: the same bytes for equal fingerprints."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()

    @property
    def registered_model(self) -> str | None:
        """The model's ``NAME.tag`` where the registry has such weights; ``None`` for a file or an untrained network."""
        name = str(self.network.get("model"))
        base, tag = split_name(name)
        return name if base in MODELS and tag in MODELS[base].weights else None

    def differences(self, wanted: Fingerprint) -> list[str]:
        """Name what differs in another fingerprint, the model first; see ``differences``."""
        return sorted(differences(self.to_json(), wanted.to_json()), key=lambda text: not text.startswith("model "))


def differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """List what differs between two JSON objects, as "key old there, new now"; dots join the keys of nested objects."""
    old, new = dict(_flattened(found)), dict(_flattened(wanted))
    return [
        f"{key} {_shown(old.get(key))} there, {_shown(new.get(key))} now"
        for key in [*new, *(key for key in old if key not in new)]
        if old.get(key) != new.get(key)
    ]


def _flattened(value: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flattened(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _shown(value: object) -> str:
    shown = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    is_hash = len(shown) == 64 and all(c in "0123456789abcdef" for c in shown)
    most = _SHOWN_DIGITS if is_hash else _SHOWN_MOST
    return printable(shown[:most]) + "..." * (len(shown) > most)


def _near(value: JSON) -> float | Literal["auto"]:
    return "auto" if value == "auto" else number(value, 0, 1)


def _one_of(value: JSON, known: tuple[str, ...]) -> str:
    if (found := text(value)) not in known:
        raise BadJson(f"{found[:40]!r} is none of {', '.join(known)}")
    return found


def _output(name: str) -> str:
    if not _OUTPUT.fullmatch(name) or name == EMBEDDING:
        raise BadJson(f"{name[:40]!r} is no name of an output")
    return name


def _shape(value: JSON) -> tuple[int, ...]:
    shape = tuple(whole(side, 1, _MAX_NUMBERS) for side in items(value))
    if len(shape) > _MAX_AXES or math.prod(shape) > _MAX_NUMBERS:
        raise BadJson("an output is too large")
    return shape
