"""The error of a training run that did not converge."""

from __future__ import annotations

from zoo.errors import UserError


class Diverged(UserError):
    """The loss or the outputs are not finite; a search over learning rates scores such a rate as failed."""
