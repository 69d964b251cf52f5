"""Protocols that fine-tune all layers with a linear classifier: semi-supervised and transfer evaluation."""
