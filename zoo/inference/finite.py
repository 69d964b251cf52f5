"""Check that embeddings are finite. A NaN or an infinity would give wrong neighbours and scores without an error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError


def require_finite_rows(values: NDArray[np.floating], what: str, first: int = 0) -> None:
    """Raise UserError if a row of ``values`` [N, ...] holds a NaN or an infinity.

    Args:
        what: what a row is of, for the message.
        first: number of the first row.
    """
    finite = np.isfinite(values)
    if not finite.all():
        row = first + int(np.flatnonzero(~finite.reshape(len(values), -1).all(1))[0])
        raise UserError(
            f"{what} {row} are not finite: the weights overflow on this image; try --device cpu, another precision, "
            "or other weights"
        )
