"""The outputs that can be requested for an image, and the crops that they are computed from.

| output | shape | meaning |
|---|---|---|
| ``embedding`` | [D] | pooled last features; always present |
| ``layer1`` ... ``layer4`` | [C] | average-pooled features of a stage |
| ``layer1_map`` ... ``layer4_map`` | [C, H, W] | features of a stage before pooling |
| ``projection``, ``prediction``, ``logits`` | [P], [P], [K] | the checkpoint's heads, applied before normalisation |
| ``tiles`` | [R, C, D] | an embedding of each part of a grid |
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from zoo.errors import UserError

EMBEDDING, TILES = "embedding", "tiles"
STAGES = ("layer1", "layer2", "layer3", "layer4")
CROPS = ("center", "ten", "full")
HEAD_PARTS = {"projection": ("projector",), "prediction": ("projector", "predictor"), "logits": ("classifier",)}
"""Parts of ``zoo.models.head_spec.EncoderHeads`` that compute an output, applied one after the other."""
_MAX_TILES = 4096


@dataclass(frozen=True)
class Outputs:
    """The outputs requested for each image.

    Attributes:
        layers: stages whose average-pooled features are returned, of ``layer1`` ... ``layer4``.
        maps: stages whose features [C, H, W] are returned.
        heads: of ``projection``, ``prediction``, ``logits``. ``zoo.load`` adds ``logits`` where there is a classifier.
        crops: ``center``; ``ten`` is the mean over the four corners, the centre and their mirror images (torchvision's
            TenCrop); ``full`` is the whole resized image, without a crop.
        tiles: rows and columns of a grid of equal parts, each resized to the input size and embedded; or ``None``.

    Raises:
        UserError: a name is unknown or repeated, or two options exclude each other.
    """

    layers: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    crops: str = "center"
    tiles: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        # A text would be taken letter by letter.
        for option in ("layers", "maps", "heads"):
            if isinstance(getattr(self, option), str):
                raise UserError(f"{option} {getattr(self, option)!r}: give a tuple of names")
        # Every name must be known, and named once.
        for option, chosen, known in (
            ("layers", self.layers, STAGES),
            ("maps", self.maps, STAGES),
            ("heads", self.heads, tuple(HEAD_PARTS)),
            ("crops", (self.crops,), CROPS),
        ):
            if unknown := [name for name in chosen if name not in known]:
                raise UserError(f"--{option} {unknown[0]!r} is not known: choose from {', '.join(known)}")
            if len(set(chosen)) < len(chosen):
                raise UserError(f"--{option} names one twice: {', '.join(chosen)}")
        # Refuse combinations whose output would have no clear meaning.
        if self.maps and self.crops == "ten":
            raise UserError("--maps with --crops ten would average maps of ten different crops: leave one of them out")
        if self.maps and self.crops == "full":
            raise UserError("--maps with --crops full would have another shape for each image: leave one of them out")
        if self.tiles is not None and (min(self.tiles) < 1 or self.tiles[0] * self.tiles[1] > _MAX_TILES):
            raise UserError(f"--tiles {self.tiles[0]}x{self.tiles[1]}: give from 1x1 to {_MAX_TILES} tiles in all")

    @property
    def torch_only(self) -> str | None:
        """The first of these options that only the torch backend supports; ``None`` if ONNX Runtime supports all."""
        full = self.crops == "full"
        return "--layers" if self.layers else "--maps" if self.maps else "--crops full" if full else None

    @property
    def crop_count(self) -> int:
        """Number of crops that the embedding is averaged over."""
        return 10 if self.crops == "ten" else 1

    @property
    def views(self) -> int:
        """Number of crops and tiles of an image that pass through the network."""
        return self.crop_count + (self.tiles[0] * self.tiles[1] if self.tiles else 0)

    def for_checkpoint(self, parts: Collection[str], name: str) -> Outputs:
        """Check the heads against a checkpoint, and add ``logits`` where it has a classifier.

        Args:
            parts: the checkpoint's heads, of ``zoo.models.head_spec.PARTS``.
            name: name of the model for messages.

        Raises:
            UserError: the checkpoint lacks a requested head.
        """
        available = [head for head, needed in HEAD_PARTS.items() if set(needed) <= set(parts)]
        if missing := [head for head in self.heads if head not in available]:
            raise UserError(f"--heads {missing[0]}: {name} has {' and '.join(available) or 'no heads'}")
        return replace(self, heads=(*self.heads, *({"logits"} & set(available) - set(self.heads))))

    def embedding_only(self) -> Outputs:
        """Return the same crops without any other output."""
        return Outputs(crops=self.crops)


def require_outputs(value: object) -> None:
    """Refuse what is no ``Outputs``, such as a list of names. Raises UserError."""
    if not isinstance(value, Outputs):
        raise UserError(f"outputs {str(value)[:60]}: give zoo.Outputs(layers=('layer3',)) or the like")


EMBEDDING_ONLY = Outputs()


def grid(text: str) -> tuple[int, int]:
    """Parse ``"2x3"`` as two rows of three columns. Raises UserError for text of another form."""
    numbers = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text)
    if numbers is None:
        raise UserError(f"--tiles takes ROWSxCOLUMNS, such as 2x3, not {text!r}")
    return int(numbers[1]), int(numbers[2])
