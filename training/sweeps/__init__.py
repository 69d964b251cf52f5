"""Searches for settings: grids and successive halving of runs, scored on images that none was trained on."""
