"""Transfer to pixels and boxes: ``detect``, ``segment`` and ``depth``, fine-tuned on a ResNet's stages."""
