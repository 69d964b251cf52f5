"""timm names for encoders that timm alone cannot build; ``import zoo.timm_models`` teaches them to timm.

timm's ResNets take TF's 'SAME' padding only as a Python class (``conv_layer``), which a config.json cannot hold, and no
other architecture of timm or of transformers computes the same function at every input size. So the config.json of such
weights names ``siamese_zoo_resnetv2_50`` or the like: without this import timm and transformers stop with an unknown
model, with it they load the file and give the zoo's embeddings.
"""

from __future__ import annotations

from typing import Any

from timm.models import FeatureListNet, load_pretrained, register_model, resolve_pretrained_cfg
from torch import nn

from zoo.models.model_config import TIMM_NAMES, TIMM_PREFIX
from zoo.models.registry import Architecture
from zoo.models.resnet import build_encoder


def _register(timm_name: str) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(timm_name, pretrained, **kwargs)

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
    num_classes: int = 0,
    in_chans: int = 3,
    features_only: bool = False,
    out_indices: Any = (0, 1, 2, 3, 4),
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    pretrained_model_args: Any = None,
    cache_dir: Any = None,
    **model_args: Any,
) -> nn.Module:
    """What ``timm.create_model`` calls, with the ``model_args`` of config.json and the caller's own.

    Raises:
        RuntimeError: ``pretrained`` without a published config (the name has no weights of its own), or not RGB.
    """
    name = TIMM_PREFIX + timm_name
    if pretrained and not pretrained_cfg:
        raise RuntimeError(f"{name} has no weights of its own: load it from a folder or a hub repository")
    if in_chans != 3:
        raise RuntimeError(f"{name} takes RGB: in_chans must be 3")
    model: Any = build_encoder(Architecture(timm_name, 0, 0, model_args, padding, stem, project_first))
    if pretrained_cfg:
        config: Any = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
        model.pretrained_cfg = model.default_cfg = config.to_dict()
    if pretrained:
        load_pretrained(model, model.pretrained_cfg, num_classes=0, strict=True, cache_dir=cache_dir)
    if features_only:
        return FeatureListNet(model, out_indices, flatten_sequential=timm_name.startswith("resnetv2"))
    if num_classes:
        model.reset_classifier(num_classes)
    return model  # type: ignore[no-any-return]


for _name in TIMM_NAMES:
    _register(_name)
