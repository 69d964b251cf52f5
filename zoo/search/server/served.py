"""What the server serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zoo.inference.embedder import Embedder
from zoo.search.collection import Collection
from zoo.search.index import Index
from zoo.search.server.request_limits import RequestLimits
from zoo.search.thumbnails import Thumbnails
from zoo.search.umap_map import UmapMap


@dataclass(frozen=True)
class ServedCollection:
    """A collection and all that is needed to answer requests for it.

    Attributes:
        map_points: float32 [rows, 2], see ``zoo.search.pca_map``.
        thumbnails: ``None`` shows names only.
        limits: bounds of the images sent to the server.
        allowed_hosts: host names that requests may use, besides ``localhost`` and addresses.
        umap: the second map; ``None`` where umap-learn is not installed.
    """

    collection: Collection
    index: Index
    embedder: Embedder
    map_points: NDArray[np.float32]
    thumbnails: Thumbnails | None = None
    limits: RequestLimits = field(default_factory=RequestLimits)
    allowed_hosts: Sequence[str] = ()
    umap: UmapMap | None = None
