"""The folder of files that this package can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$SIAMESE_ZOO_CACHE``, or else ``siamese-zoo`` in the user's cache folder."""
    if own := os.environ.get("SIAMESE_ZOO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siamese-zoo"
