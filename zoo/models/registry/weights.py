"""What an entry is made of: a model, its sets of weights, their preprocessing and published scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from zoo.transforms.preprocess import Preprocessing

IMAGENET_224 = Preprocessing(input_size=224, resize=256)
BYOL_224 = replace(IMAGENET_224, resizing="byol")  # deepmind-research byol/utils/dataset.py: 224 / (224 + 32)
# torchvision's default Resize(256) is bilinear: simsiam and moco main_lincls.py, swav eval_linear.py
FAIR_224 = replace(IMAGENET_224, interpolation="bilinear")
SWAV_224 = replace(FAIR_224, std=(0.228, 0.224, 0.225))
# simclr data_util.py: CROP_PROPORTION .875 is 224 / 256; [0, 1] as it is
SIMCLR_224 = replace(IMAGENET_224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resizing="simclr")


@dataclass(frozen=True)
class Score:
    """A published score.

    Attributes:
        value: percent.
        protocol: name of the measurement.
        where: publication.
        verified: True if the number was looked up there, False if it was only remembered.
        spread: what the publication prints after the +-; ``None`` where it prints nothing.
    """

    value: float
    protocol: str
    where: str
    verified: bool = True
    spread: float | None = None

    @property
    def text(self) -> str:
        """The value, and the spread where there is one."""
        return f"{self.value:g}" + (f" ± {self.spread:g}" if self.spread else "")


@dataclass(frozen=True)
class HashPrefix:
    """The first digits of a file's hash, as its authors publish them.

    Such a prefix finds a damaged or exchanged file; it is too short to stop somebody who forges one.

    Attributes:
        algorithm: ``md5`` or ``sha256``.
        digits: hexadecimal, in lower case.
        where: publication.
    """

    algorithm: str
    digits: str
    where: str


@dataclass(frozen=True)
class Weights:
    """One set of weights of a model.

    Attributes:
        location: ``bundled:FILE`` for a file of ``zoo/bundled``, or the URL of an official file.
        sha256: hash of that file; ``None`` where nobody could verify it yet: the first use then records it.
        note: a sentence about the training, for the card.
        hash_prefix: what the authors publish of the file's hash, verified at every download; ``None`` if nothing.
        licence: SPDX name.
        licence_note: what a user must know besides, where the authors say different things.
        source: project that published the weights.
        preprocessing: transform that the weights were evaluated with.
        padding: see ``Architecture``.
        kind: format of the official file, a key of ``zoo.convert.convert.KINDS``; ``None`` for a bundled file.
        max_megabytes: size limit of the download in 10**6 bytes.
        scores: published scores of these weights.
        selection: how the recipe was chosen and on which images, for the card.
        other_link: another address of the same file, and what is different about it.
        data: what it was trained on, a key of ``zoo.publish.card.wording.DATA_SETS``.
        by_hand: why no program can download the file, and what replaces it; empty where ``location`` serves it.
            ``zoo fetch NAME --file FILE`` takes a file that was got otherwise.
    """

    location: str
    sha256: str | None
    licence: str
    source: str
    preprocessing: Preprocessing = IMAGENET_224
    padding: str = "symmetric"
    kind: str | None = None
    max_megabytes: int = 1000
    scores: tuple[Score, ...] = ()
    selection: str = ""
    note: str = ""
    hash_prefix: HashPrefix | None = None
    licence_note: str = ""
    other_link: str = ""
    data: str = "imagenet"
    by_hand: str = ""

    @property
    def place(self) -> str:
        """The file's address for a reader; of a shared folder the file's name and the folder's address.

        Messages lose the query of an address, which can be a secret: here it only says how a browser shows the file.
        """
        page, _, file = self.location.partition("#")
        page = page.removesuffix("?dl=0").removesuffix("?download=true")
        return f"{file} in {page}" if file else page

    @property
    def bundled(self) -> bool:
        """True if the file ships with the package."""
        return self.location.startswith("bundled:")


@dataclass(frozen=True)
class ModelSpec:
    """One name of the zoo.

    Attributes:
        method: such as ``byol``, ``moco`` (v2) or ``supervised``: a key of ``zoo.publish.card.wording.METHODS``.
        architecture: key of ``ARCHITECTURES``.
        recipe: ``zoo-train`` recipe that produces such weights; empty where there is none.
        weights: released weights by tag; the first tag is the default.
        scores: published scores of this architecture and method that belong to none of these weights.
    """

    name: str
    method: str
    architecture: str
    recipe: str
    weights: Mapping[str, Weights] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()

    @property
    def default_tag(self) -> str | None:
        """The tag that the bare name stands for; ``None`` without released weights."""
        return next(iter(self.weights), None)


LINEAR = "ImageNet linear top-1"
