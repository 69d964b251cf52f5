"""Pixels to vectors: the embedder and its two backends, torch and ONNX Runtime; downloads and exports nothing."""
