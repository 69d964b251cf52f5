"""Official checkpoint files to converted models: key names, layouts and paddings; reads local files, no network."""
