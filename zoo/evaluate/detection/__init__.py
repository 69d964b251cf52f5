"""The ``detect`` protocol: annotations, Faster and Mask R-CNN, average precision; uses ``dense`` only."""
