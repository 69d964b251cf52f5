"""The data behind a card: weights, training, scores, and how far the loaders agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from zoo.models.registry import Architecture, HashPrefix, Score
from zoo.publish.card.wording import DATA_SETS
from zoo.transforms.preprocess import Preprocessing

# Allowed max|difference| / max|reference| between the embeddings of two loaders,
SAME = 1e-5  # from the same normalised pixels
SAME_PHOTOGRAPH = 1e-4  # from the photograph, through timm's own transform, which resizes with Pillow too


class DataName(TypedDict):
    """The data of an evaluation: ``name`` is a key of ``DATA_SETS``, or the user's own."""

    name: str


class ModelName(TypedDict):
    """The model of an evaluation: ``NAME.tag``, or ``NAME.random``, whose weights have no hash."""

    model: str
    weights_sha256: NotRequired[str | None]
    dim: NotRequired[int]
    parameters: NotRequired[int]
    precision: NotRequired[str]


class EvaluationResult(TypedDict):
    """The entries of a ``zoo evaluate`` JSON that cards use; scores are in percent."""

    protocol: str
    metric: str
    score: float
    interval_95: list[float]
    model: ModelName
    data: DataName
    options: NotRequired[Mapping[str, object]]


class OptimRecord(TypedDict):
    """The optimiser of a recipe."""

    name: str
    lr: float
    batch_size: int
    weight_decay: float
    tau: float


class ViewsRecord(TypedDict):
    """The views of a recipe: side in pixels."""

    size: int


class RecipeRecord(TypedDict):
    """The entries of a ``zoo-train`` recipe that cards use."""

    name: str
    seed: int
    precision: NotRequired[str]
    optim: OptimRecord
    views: ViewsRecord


class TrainingData(TypedDict):
    """The data of a training run."""

    name: NotRequired[str]
    images: int


class InitialWeights(TypedDict):
    """The weights from which a run's encoder started, and the sha256 of their file if they have one."""

    weights: str
    sha256: str | None


class TrainingRecord(TypedDict):
    """The facts about a training run that ``zoo-train export`` writes."""

    recipe: RecipeRecord
    data: TrainingData
    steps: int
    total_steps: int
    images_seen: int
    minutes: float
    hardware: str
    init: NotRequired[InitialWeights]
    versions: NotRequired[dict[str, str]]


@dataclass(frozen=True)
class Int8:
    """The outcome of the int8 export.

    Attributes:
        allowed: lower limit of the cosine with torch, on photographs that int8 was not calibrated on.
        cosine: smallest cosine measured; ``None`` without a file.
        photographs: number of photographs that it was measured on.
        refused: why there is no file.
    """

    allowed: float
    cosine: float | None
    photographs: int = 0
    refused: str = ""


@dataclass(frozen=True)
class Agreement:
    """Measured differences between the loaders of a published folder and torch, as largest relative differences.

    Attributes:
        photographs: number of photographs that were compared.
        timm: timm, from the same normalised pixels.
        timm_photograph: timm, from the photograph through its own transform (transformers uses the same).
        float_resize: torch, from the photograph resized in floating point instead of Pillow's 8 bits; for weights with
            TensorFlow's resize, without its rounding to bytes.
        onnx: ONNX Runtime, from the same uint8 pixels.
        int8: ``None`` where no int8 file was requested.
    """

    photographs: int
    timm: float
    timm_photograph: float
    float_resize: float
    onnx: float = 0.0
    int8: Int8 | None = None


@dataclass(frozen=True)
class Facts:
    """The content of a card for one set of weights.

    Attributes:
        name: ``NAME.tag`` of the registry, or the user's own name.
        location: the file that ships (``bundled:FILE``), a URL, or the user's own file; "" for a folder.
        half: True if that file holds convolutions in float16.
        training: facts about the training run; ``None`` where nobody recorded it.
        earlier: the runs whose weights that run started from, first one first.
        results: JSON of ``zoo evaluate``, for these weights and for random ones.
        published: scores of these weights that others measured.
        selection: how settings were chosen and on which images.
        recipe: name of the ``zoo-train`` recipe with the constants of the method's authors; for the default tag only.
        like_these: published scores of the same architecture and method that belong to no weights of the registry.
        others: other weights of the same name.
        repository: ``ORG/NAME`` on a model hub; ``None`` for a card of the registry.
        hub_name: the entry of ``hubconf.py`` with this architecture; ``None`` where there is none.
        note, hash_prefix, licence_note, other_link: see ``zoo.models.registry.Weights``.
        trained_on: what official weights were trained on, a key of ``DATA_SETS``.
        by_hand: see ``zoo.models.registry.Weights``.
        heads: parts in the file ``heads_file``.
        agreement: measured when the repository was built.
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
    training: TrainingRecord | None = None
    earlier: Sequence[TrainingRecord] = ()
    results: Sequence[EvaluationResult] = ()
    published: Sequence[Score] = ()
    selection: str = ""
    recipe: str = ""
    like_these: Sequence[Score] = ()
    others: Sequence[str] = ()
    repository: str | None = None
    hub_name: str | None = None
    note: str = ""
    hash_prefix: HashPrefix | None = None
    licence_note: str = ""
    other_link: str = ""
    trained_on: str = "imagenet"
    by_hand: str = ""
    heads: Sequence[str] = ()
    heads_file: str = "heads.safetensors"
    agreement: Agreement | None = None

    @property
    def bundled(self) -> bool:
        """True if the weights ship with the package."""
        return self.location.startswith("bundled:")

    @property
    def official(self) -> bool:
        """True if a method's authors published the weights."""
        return "://" in self.location

    @property
    def reference(self) -> str:
        """The argument of ``zoo.load`` and ``--model``."""
        if self.repository:
            return f"hf-hub:{self.repository}"
        if self.bundled and self.recipe:  # only the default tag of a name has one
            return self.name.partition(".")[0]
        return self.name if self.official or self.bundled else self.location

    @property
    def data(self) -> str | None:
        """The key of the training data in ``DATA_SETS``; ``None`` where that has no such data."""
        if self.official:
            return self.trained_on
        name = self.training["data"].get("name", "").partition("/")[0] if self.training else ""
        return name if name in DATA_SETS else None
