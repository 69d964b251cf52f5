"""torch.hub entry points, one for each name of the registry.

    torch.hub.load("PATH/TO/siamese-zoo", "NAME", source="local")

gives the bare module: normalised float [N, 3, H, W] -> [N, D]. Imports stay inside, so that listing is instant.
"""

dependencies = ["torch", "torchvision", "timm", "safetensors"]


def _entry(name):
    from zoo.registry import ARCHITECTURES, MODELS

    spec = MODELS[name]
    architecture = ARCHITECTURES[spec.architecture]

    def load(pretrained=True, weights=None):
        from zoo.hub import load_module

        return load_module(name, pretrained=pretrained, weights=weights)

    tags = ", ".join(spec.weights) or "none released"
    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"""{spec.method} {spec.architecture}: normalised [N, 3, H, W] -> [N, {architecture.num_features}].

    Args:
        pretrained (bool): released weights (default); False gives random ones. A name without released weights
            raises zoo.UserError, it never falls back to random ones.
        weights (str, optional): a tag of this name ({tags}) or the path of a safetensors file.

    Returns:
        torch.nn.Module in eval mode, {architecture.parameters:,} parameters; ``module.preprocessing`` says which
        pixels it expects.
    """
    return load


def _entries():
    from zoo.registry import MODELS

    return {name: _entry(name) for name in MODELS}


globals().update(_entries())
