"""Batches of decoded images and their augmented views; knows recipes, but neither networks nor the loop."""
