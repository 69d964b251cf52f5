"""All that a card says, as data: of the weights, of their training, of their scores, of how far the loaders agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.models.registry import Architecture, Score
from zoo.publish.card.wording import DATA_SETS
from zoo.transforms.preprocess import Preprocessing

SAME = 1e-5  # relative, max|difference| / max|reference|: what a loader may differ on the same normalised pixels
SAME_PHOTOGRAPH = 1e-4  # and through timm's own transform, which is Pillow's like ours


@dataclass(frozen=True)
class Int8:
    """What became of the int8 ONNX file.

    Attributes:
        allowed: the least cosine with torch's embedding of a photograph that it was not calibrated on.
        cosine: the least measured, ``None`` where there is no file.
        photographs: how many it was measured on.
        refused: why there is none.
    """

    allowed: float
    cosine: float | None
    photographs: int = 0
    refused: str = ""


@dataclass(frozen=True)
class Agreement:
    """How far the loaders of a published folder are from torch, largest relative differences; measured, not promised.

    Attributes:
        photographs: how many.
        timm: on the same normalised pixels.
        timm_photograph: from the photograph, through timm's own transform (transformers uses the same).
        float_resize: from the photograph, resized in floating point (torch, antialiased) instead of Pillow's 8 bits; of
            weights that are cropped first, with the official code's fractions of a level.
        onnx: from the same uint8 pixels.
        int8: ``None`` where none was asked for.
    """

    photographs: int
    timm: float
    timm_photograph: float
    float_resize: float
    onnx: float = 0.0
    int8: Int8 | None = None


@dataclass(frozen=True)
class Facts:
    """All that a card says of one set of weights.

    Attributes:
        name: of the registry with its tag, or the user's own.
        location: the file that ships (``bundled:FILE``), a URL, or the user's own file; "" of a folder.
        half: whether that file holds convolutions in float16.
        training: of the training run, ``None`` where nobody recorded it: ``recipe``, ``data``, ``steps``,
            ``total_steps``, ``images_seen``, ``minutes``, ``hardware``, and ``versions`` where they are known.
        results: JSON of ``zoo evaluate``, for these weights and for random ones.
        published: scores of these weights, measured by others.
        selection: how settings were chosen and on which images.
        recipe: of ``zoo-train``, with the constants of the method's authors.
        like_these: scores of others for the same architecture and method, whatever weights.
        others: other weights of the same name.
        repository: ``ORG/NAME`` on a model hub, ``None`` for a card of the registry.
        hub_name: the entry of ``hubconf.py`` with this architecture, ``None`` where there is none.
        heads: parts in the file ``heads_file``.
        agreement: measured when the repository was made.
    """

    name: str
    method: str
    architecture: Architecture
    preprocessing: Preprocessing
    licence: str
    source: str
    sha256: str | None
    location: str = ""
    half: bool = False
    training: Mapping[str, Any] | None = None
    results: Sequence[Mapping[str, Any]] = ()
    published: Sequence[Score] = ()
    selection: str = ""
    recipe: str = ""
    like_these: Sequence[Score] = ()
    others: Sequence[str] = ()
    repository: str | None = None
    hub_name: str | None = None
    heads: Sequence[str] = ()
    heads_file: str = "heads.safetensors"
    agreement: Agreement | None = None

    @property
    def bundled(self) -> bool:
        """Whether the weights ship with the package."""
        return self.location.startswith("bundled:")

    @property
    def official(self) -> bool:
        """Whether a method's authors made the weights."""
        return "://" in self.location

    @property
    def reference(self) -> str:
        """What ``zoo.load`` and ``--model`` take."""
        if self.repository:
            return f"hf-hub:{self.repository}"
        if self.bundled:
            return self.name.partition(".")[0]
        return self.name if self.official else self.location

    @property
    def data(self) -> str | None:
        """The key of the training data in ``DATA_SETS``, ``None`` where it is not there."""
        if self.official:
            return "imagenet"
        name = self.training["data"].get("name", "").partition("/")[0] if self.training else ""
        return name if name in DATA_SETS else None
