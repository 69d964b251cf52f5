"""What a run measures and logs about itself; reads networks and data, and changes neither."""
