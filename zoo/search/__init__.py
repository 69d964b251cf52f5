"""Search in a finished extraction; writes the index, the map's cache and an HTML report. Only ``server`` uses HTTP."""
