"""Result files -> the seed's tables with measured rows beside the published ones, and pictures."""
