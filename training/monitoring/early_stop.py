"""Ends a run whose kNN accuracy no longer rises; off unless ``Recipe.early_stop_patience`` is set."""

from __future__ import annotations

from typing import TypedDict


class EarlyStopState(TypedDict):
    """The rule's part of a checkpoint."""

    best: float
    best_epoch: int
    without: int


class EarlyStop:
    """Counts the evaluations since the best kNN accuracy.

    Args:
        patience: evaluations in a row without a new best that end the run; 0 never ends it.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best, self._best_epoch, self._without = -1.0, 0, 0

    def add(self, epoch: int, knn: float | None) -> None:
        """Take the kNN accuracy in percent after ``epoch`` epochs."""
        if knn is None:
            return
        if knn > self._best:
            self._best, self._best_epoch, self._without = knn, epoch, 0
        else:
            self._without += 1

    @property
    def reason(self) -> str | None:
        """Why the run ends, ``None`` while it goes on."""
        if not self._patience or self._without < self._patience:
            return None
        return (
            f"kNN has not risen above the {self._best:.2f} % of epoch {self._best_epoch} in {self._without} evaluations"
        )

    def state_dict(self) -> EarlyStopState:
        """Return the state for a checkpoint."""
        return {"best": self._best, "best_epoch": self._best_epoch, "without": self._without}

    def load_state_dict(self, state: EarlyStopState) -> None:
        """Restore what ``state_dict`` returned."""
        self._best, self._best_epoch, self._without = state["best"], state["best_epoch"], state["without"]
