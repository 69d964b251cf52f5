"""Model repositories: builds them, compares every loader on them, and hands them to ``zoo.hub`` for upload."""
