"""Networks and their files: the registry, timm's ResNets, heads, checkpoint folders; no network access."""
