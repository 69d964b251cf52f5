"""Plans runs before they start: which recipe, which batch, how many hours; measures rates and writes nothing."""
