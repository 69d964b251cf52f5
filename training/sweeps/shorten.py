"""A recipe at another length, for the short runs of successive halving."""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Option, Recipe


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """Return ``recipe`` with ``epochs`` epochs, and what happens after some epochs earlier in proportion.

    That is the end of the warm-up, each fall of the rate (``decay``), the start of SwAV's queue, and what an option
    whose name ends in ``_epochs`` times. Whole numbers are rounded.
    """
    whole, optim, objective = recipe.optim.epochs, recipe.optim, recipe.objective
    if epochs == whole:
        return recipe
    # The schedule. A decay_start of 0 has a meaning of its own: it stays, and nothing else becomes 0.
    optim = replace(optim, epochs=epochs, warmup_epochs=optim.warmup_epochs * epochs / whole)
    if optim.schedule == "decay":
        every, start = (max(min(1, n), round(n * epochs / whole)) for n in (optim.decay_epochs, optim.decay_start))
        optim = replace(optim, decay_epochs=every, decay_start=start)
    # The method.
    if objective.queue:
        objective = replace(objective, queue_from_epoch=round(objective.queue_from_epoch * epochs / whole))

    def earlier(name: str, value: Option) -> Option:
        if not name.endswith("_epochs") or isinstance(value, bool | str):
            return value
        return type(value)(round(value * epochs / whole, 0 if isinstance(value, int) else 6))

    options = {name: earlier(name, value) for name, value in recipe.options.items()}
    return replace(recipe, optim=optim, objective=objective, options=options)
