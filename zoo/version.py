"""The version of siamese-zoo, which manifests and cards record."""

__version__ = "0.2.0"
