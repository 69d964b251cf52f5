"""What manifests, results and cards say of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from zoo.hub.weights import WeightFile


class WeightsInfo(TypedDict, total=False):
    """Facts about the weights for manifests, results and cards."""

    model: str
    method: str
    licence: str
    weights_sha256: str | None
    source: str
    heads_sha256: str | None


def weights_info_of(file: WeightFile, *, with_heads: bool = False) -> WeightsInfo:
    """Return the facts about located weights.

    Args:
        with_heads: include the hash of the heads, for outputs that depend on them.
    """
    info: WeightsInfo = {
        "model": file.name,
        "method": file.method,
        "licence": file.licence,
        "weights_sha256": file.sha256,
    }
    if file.source:
        info["source"] = file.source
    if with_heads:
        info["heads_sha256"] = file.heads_sha256
    return info
