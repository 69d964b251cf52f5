"""What comes out of an image besides its embedding, and which parts of the image are looked at.

| output | shape | what it is |
|---|---|---|
| ``embedding`` | [D] | the pooled last features; always there |
| ``layer1`` ... ``layer4`` | [C] | average-pooled features of a stage |
| ``layer1_map`` ... ``layer4_map`` | [C, H, W] | its features before they are pooled |
| ``projection``, ``prediction``, ``logits`` | [P], [P], [K] | the checkpoint's heads on the embedding as it is pooled |
| ``tiles`` | [R, C, D] | an embedding of each part of the image |
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from zoo.errors import UserError

EMBEDDING, TILES = "embedding", "tiles"
NEAR_DUPLICATES = "near_duplicates.parquet"  # pairs of rows, beside the shards
STAGES = ("layer1", "layer2", "layer3", "layer4")
CROPS = ("center", "ten", "full")
HEADS = {"projection": ("projector",), "prediction": ("projector", "predictor"), "logits": ("classifier",)}
"""Which parts of ``zoo.models.head_spec.EncoderHeads`` make an output, one after the other."""
_MOST_TILES = 4096


@dataclass(frozen=True)
class Outputs:
    """What is wanted of each image.

    Attributes:
        layers: stages whose average-pooled features are wanted.
        maps: stages whose features [C, H, W] are wanted.
        heads: of ``projection``, ``prediction``, ``logits``. ``zoo.load`` adds ``logits`` where there is a classifier.
        crops: ``center``; ``ten``: the mean over the four corners, the centre and their mirror images (torchvision's
            TenCrop); ``full``: the whole resized image, without a crop.
        tiles: rows and columns of a grid of equal parts, each resized to the input size and embedded; or ``None``.

    Raises:
        UserError: unknown or repeated names, or two wishes that do not go together.
    """

    layers: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    crops: str = "center"
    tiles: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for option, chosen, known in (
            ("layers", self.layers, STAGES),
            ("maps", self.maps, STAGES),
            ("heads", self.heads, tuple(HEADS)),
            ("crops", (self.crops,), CROPS),
        ):
            if unknown := [name for name in chosen if name not in known]:
                raise UserError(f"--{option} {unknown[0]!r} is not known: choose of {', '.join(known)}")
            if len(set(chosen)) < len(chosen):
                raise UserError(f"--{option} names one twice: {', '.join(chosen)}")
        if self.maps and self.crops == "ten":
            raise UserError("--maps with --crops ten would be a mean over ten places: leave one of them away")
        if self.maps and self.crops == "full":
            raise UserError("--maps with --crops full would have another shape for each image: leave one of them away")
        if self.tiles is not None and (min(self.tiles) < 1 or self.tiles[0] * self.tiles[1] > _MOST_TILES):
            raise UserError(f"--tiles {self.tiles[0]}x{self.tiles[1]}: give from 1x1 to {_MOST_TILES} tiles in all")

    @property
    def only_torch(self) -> str | None:
        """The first option among these that only the torch engine can do."""
        full = self.crops == "full"
        return "--layers" if self.layers else "--maps" if self.maps else "--crops full" if full else None

    @property
    def crop_views(self) -> int:
        """How many crops make the embedding."""
        return 10 if self.crops == "ten" else 1

    @property
    def views(self) -> int:
        """How many pictures of an image the network sees."""
        return self.crop_views + (self.tiles[0] * self.tiles[1] if self.tiles else 0)

    def of_checkpoint(self, parts: Collection[str], name: str) -> Outputs:
        """With ``logits`` where there is a classifier.

        Args:
            parts: the checkpoint's, as ``zoo.models.head_spec.PARTS``.
            name: of the model.

        Raises:
            UserError: a head is wanted that the checkpoint does not have.
        """
        there = [head for head, needed in HEADS.items() if set(needed) <= set(parts)]
        if missing := [head for head in self.heads if head not in there]:
            raise UserError(f"--heads {missing[0]}: {name} has {' and '.join(there) or 'no heads'}")
        return replace(self, heads=(*self.heads, *({"logits"} & set(there) - set(self.heads))))

    def alone(self) -> Outputs:
        """The embedding and nothing else, of the same crops."""
        return Outputs(crops=self.crops)


def grid(text: str) -> tuple[int, int]:
    """``"2x3"`` as two rows of three columns. UserError: not of that form."""
    numbers = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text)
    if numbers is None:
        raise UserError(f"--tiles takes ROWSxCOLUMNS, such as 2x3, not {text!r}")
    return int(numbers[1]), int(numbers[2])
