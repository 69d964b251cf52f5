"""torch.hub entry points, one for each name of the registry.

    torch.hub.load("PATH/TO/siamese-zoo", "NAME", source="local")

gives the bare module: normalised float [N, 3, H, W] -> [N, D], and never prompts on the terminal. The imports are
inside the functions, so that listing the entries takes no time.
"""

dependencies = ["torch", "torchvision", "timm", "safetensors"]


def _entry(name):
    from zoo.models.registry import ARCHITECTURES, MODELS

    spec = MODELS[name]
    architecture = ARCHITECTURES[spec.architecture]

    def load(pretrained=True, weights=None, progress=True, num_classes=0, features_only=False,
             out_indices=(0, 1, 2, 3, 4), in_chans=3):  # fmt: skip
        from zoo.hub.torch_hub import load_module

        return load_module(
            name,
            pretrained=pretrained,
            weights=weights,
            progress=progress,
            num_classes=num_classes,
            features_only=features_only,
            out_indices=out_indices,
            in_chans=in_chans,
        )

    tags = ", ".join(f"{tag} ({w.licence})" for tag, w in spec.weights.items()) or "none released"
    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"""{spec.method} {spec.architecture}: normalised [N, 3, H, W] -> [N, {architecture.num_features}].

    Args:
        pretrained (bool): released weights (default), downloaded once where they are not part of this repository;
            False gives random ones. A name without released weights raises zoo.UserError, it never falls back to
            random ones.
        weights (str, optional): a tag of this name ({tags}), hf-hub:ORG/NAME@REVISION, or the path of a safetensors
            file or of a folder of `zoo convert`.
        progress (bool): print the progress of a download to stderr.
        num_classes (int): above 0, a new linear layer follows the encoder: [N, num_classes].
        features_only (bool): timm's feature pyramid: a list of maps, at stride 2 to 32; it can be scripted.
        out_indices (tuple): which of the five maps, with features_only; they come in the order of their depth.
        in_chans (int): channels of the input; the first layer's weights are summed or repeated, as timm does.

    Returns:
        torch.nn.Module in eval mode, {architecture.parameters:,} parameters without a classifier;
        ``module.preprocessing`` is the transform that it expects.
    """
    return load


def _entries():
    from zoo.models.registry import MODELS

    return {name: _entry(name) for name in MODELS}


def encoder(weights, num_classes=0, features_only=False, out_indices=(0, 1, 2, 3, 4), in_chans=3):
    """Weights of any network, whatever its name: normalised [N, 3, H, W] -> [N, D].

    Args:
        weights (str): hf-hub:ORG/NAME@REVISION, or the path of a safetensors file of `zoo-train export` or of a folder
            of `zoo convert`.
        num_classes, features_only, out_indices, in_chans: as for the names of the zoo.

    Returns:
        torch.nn.Module in eval mode, pretrained with these weights; ``module.preprocessing`` is its transform.
    """
    from zoo.hub.torch_hub import load_weights

    return load_weights(
        weights, num_classes=num_classes, features_only=features_only, out_indices=out_indices, in_chans=in_chans
    )


globals().update(_entries())
