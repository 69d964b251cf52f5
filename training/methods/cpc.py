"""CPC v2: Data-Efficient Image Recognition with Contrastive Predictive Coding (Hénaff et al. 2019, arXiv 1905.09272v3).

An image is a grid of overlapping patches, each with a vector of its own. A masked network sees the rows above a place,
and predicts the vector some rows below it among those of all patches of the batch (section 2 and the pseudo-code of the
appendix). The same is done from below, from the left and from the right.

No official code was published. The paper does not say whether the four directions share weights, and here they do not.
Layer norm is over channels and places of one patch: with BN the patches of a batch would tell each other what to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from training.methods.base import Method, StepInfo, recipe_encoder
from training.methods.masked_context import Direction
from training.methods.options import check_options
from training.methods.patches import change_patches, overlapping_patches
from training.recipes.config import Optim, Range, Recipe
from zoo.errors import UserError
from zoo.models.heads import moco_projector

_BETAS = (0.8, 0.999)  # of Adam
_SIZES = ("patch", "stride", "first_step", "last_step", "layers")


class CPC(Method):
    """Encoder of patches (float [N, 3, P, P] -> [N, dim]), a Linear to the targets, and four ``Direction``.

    Args:
        dim: size of the encoder's output.
        out: size of targets and predictions; 64.
        hidden: channels of the context networks; 256.
        patch, stride: pixels of a patch, and between two; 80 and 36 make a grid of 6 x 6 in a view of 260.
        first_step, last_step: rows between a context and what it predicts; 3 and 3.
        layers: residual blocks of a context network; 5.
        drop_colours: probability that two of a patch's three colours become the mean colour; half of all patches are
            mirrored besides.
        clip: largest norm of the gradient; .01.
        seed: of the patches' changes.
    """

    synchronised_bn = False
    without_bn = True
    views = (1, 1)
    uses_rows = True
    batch_loss = True
    shift_invariant = True  # the targets: each logit of a softmax is the product of the same prediction and a target
    training_only = ("directions",)

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        *,
        out: int = 64,
        hidden: int = 256,
        patch: int = 80,
        stride: int = 36,
        first_step: int = 3,
        last_step: int = 3,
        layers: int = 5,
        drop_colours: float = 0.5,
        clip: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.patch, self.stride, self.drop_colours, self.clip, self.seed = patch, stride, drop_colours, clip, seed
        self.encoder = encoder
        self.projector = moco_projector(dim, 4 * out, layers=1)  # the targets of the four directions
        steps = range(first_step, last_step + 1)
        self.directions = nn.ModuleList(Direction(dim, hidden, out, steps, layers) for _ in range(4))
        self._step = 0

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, images: int = 1) -> Self:
        encoder, dim = recipe_encoder(recipe)
        options = {name: int(recipe.options[name]) for name in _SIZES}
        return cls(
            encoder,
            dim,
            out=recipe.heads.out,
            hidden=recipe.heads.hidden,
            drop_colours=float(recipe.options["drop_colours"]),
            clip=float(recipe.options["clip"]),
            seed=recipe.seed,
            **options,
        )

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        some, size = Range(1, whole=True), Range(1, recipe.views.size, whole=True)
        check_options(recipe, patch=size, stride=size, first_step=some, last_step=some)
        check_options(recipe, layers=Range(1, 50, whole=True))  # the paper has 5 for each direction
        check_options(recipe, drop_colours=Range(0, 1), clip=Range(0, above=True))
        first, last, side = recipe.options["first_step"], recipe.options["last_step"], _side(recipe)
        if not float(first) <= float(last) < side:
            raise UserError(f"a grid of {side} x {side} patches has no rows {first} to {last} rows ahead of its first")

    @classmethod
    def encoded_pixels(cls, recipe: Recipe) -> int:
        return (_side(recipe) * int(recipe.options["patch"])) ** 2

    def parameter_groups(self, optim: Optim) -> list[dict[str, object]]:
        """All in one group, with Adam's decay rates of the paper."""
        return [{"params": list(self.parameters()), "weight_decay": optim.weight_decay, "betas": _BETAS}]

    def forward(
        self, views: Sequence[Tensor], labels: Tensor | None = None, rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One view [N, 3, H, W], normalised, and the images' rows [N] -> ``loss``, the sum over the four directions."""
        (view,) = views
        if rows is None:
            raise TypeError("the rows of the images, from which the patches are changed, are missing")
        patches = overlapping_patches(view, self.patch, self.stride)
        patches = change_patches(patches, rows, self.drop_colours, seed=self.seed, step=self._step)
        side, n = len(patches), len(view)
        vectors = self.encoder(patches.flatten(0, 2))  # place after place, so that the first N are of all images
        z, targets = (x.view(side, side, n, -1).permute(2, 3, 0, 1) for x in (vectors, self.projector(vectors)))
        parts = zip(self.directions, targets.chunk(4, 1), range(4), strict=True)
        losses = [one(torch.rot90(z, turn, (2, 3)), torch.rot90(t, turn, (2, 3))) for one, t, turn in parts]
        return {"loss": torch.stack(losses).sum()}

    def before_step(self, info: StepInfo) -> None:
        """The patches' changes are drawn from the step."""
        self._step = info.step

    def before_update(self, info: StepInfo) -> None:
        """Scale a gradient that is longer than ``clip``."""
        nn.utils.clip_grad_norm_(self.parameters(), self.clip)


def _side(recipe: Recipe) -> int:
    """Return the patches in a row of the grid."""
    return (recipe.views.size - int(recipe.options["patch"])) // int(recipe.options["stride"]) + 1
