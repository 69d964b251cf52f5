"""The draws of ``zoo.draws``, which evaluation shares."""

from zoo.draws import permutation, uniforms

__all__ = ["permutation", "uniforms"]
