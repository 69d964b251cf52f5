"""The ``segment`` protocol: label images, a dilated FCN, mean IoU; uses ``dense`` only."""
