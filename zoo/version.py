"""The version of siamese-zoo, as manifests and cards record it."""

__version__ = "0.2.0"
