"""timm names for encoders that timm alone cannot build; ``import zoo.timm_models`` registers them.

timm's ResNets take TensorFlow's 'SAME' padding only as a Python class (``conv_layer``), which no config.json can hold,
and no other architecture of timm or transformers computes the same function at every input size. So the config.json of
such weights names ``siamese_zoo_resnetv2_50`` or the like. Without this import timm and transformers stop with an
unknown model; with it they load the file and give the zoo's embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from timm.models import FeatureListNet, load_pretrained, register_model, resolve_pretrained_cfg
from torch import nn

from zoo.models.model_config import TIMM_NAMES, TIMM_PREFIX
from zoo.models.registry import Architecture, ModelArgs
from zoo.models.resnet import build_encoder


def _register(timm_name: str) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(timm_name, pretrained, **kwargs)

    # timm takes the model's name from the function's, and looks it up in this module
    entry.__name__ = TIMM_PREFIX + timm_name
    entry.__module__ = __name__
    globals()[entry.__name__] = register_model(entry)


def _create(
    timm_name: str,
    pretrained: bool,
    *,
    padding: str = "symmetric",
    stem: str = "imagenet",
    project_first: bool = False,
    colours: str = "",
    num_classes: int = 0,
    in_chans: int = 3,
    features_only: bool = False,
    out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
    pretrained_cfg: str | dict[str, object] | None = None,
    pretrained_cfg_overlay: dict[str, object] | None = None,
    pretrained_model_args: object = None,
    cache_dir: str | Path | None = None,
    **args: Any,
) -> nn.Module:
    """Build a network for ``timm.create_model``, from the ``model_args`` of config.json and the caller's own.

    Raises:
        RuntimeError: ``pretrained`` is set without a published config (the name has no weights of its own), or
            ``in_chans`` is not the config's, or a network of split colours is asked for feature maps or classes.
    """
    name = TIMM_PREFIX + timm_name
    if pretrained and not pretrained_cfg:
        raise RuntimeError(f"{name} has no weights of its own: load it from a folder or a hub repository")
    if colours and (features_only or num_classes):
        raise RuntimeError(f"{name} of split colours gives pooled features: leave features_only and num_classes out")
    config: Any = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay) if pretrained_cfg else None
    channels = config.input_size[0] if config else 3
    if in_chans != channels:
        kind = "RGB" if channels == 3 else f"images of {channels} channels"
        raise RuntimeError(f"{name} takes {kind}: in_chans must be {channels}")
    model_args = cast(ModelArgs, args | ({"in_chans": in_chans} if in_chans != 3 else {}))
    model: Any = build_encoder(Architecture(timm_name, 0, 0, model_args, padding, stem, project_first, colours))
    if config:
        model.pretrained_cfg = model.default_cfg = config.to_dict()
    if pretrained:
        load_pretrained(model, model.pretrained_cfg, num_classes=0, in_chans=in_chans, strict=True, cache_dir=cache_dir)
    if features_only:
        return FeatureListNet(model, out_indices, flatten_sequential=timm_name.startswith("resnetv2"))
    if num_classes:
        model.reset_classifier(num_classes)
    return model  # type: ignore[no-any-return]


for _name in TIMM_NAMES:
    _register(_name)
