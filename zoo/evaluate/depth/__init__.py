"""The ``depth`` protocol: depth images, an up-projection decoder, depth errors; uses ``dense`` only."""
