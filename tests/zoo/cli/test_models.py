"""The choices of ``zoo export`` and ``zoo convert`` are those of the modules, which are too slow to import for help."""

from __future__ import annotations

import inspect
from typing import get_args

from zoo.cli import models
from zoo.convert.convert import KINDS, WHICH
from zoo.export.checkpoint_formats import OWN_ENDING
from zoo.export.export import PRECISIONS
from zoo.export.onnx_graph import OPSET, OPSETS, PIXELS


def test_choices_and_defaults_are_those_of_the_modules() -> None:
    assert get_args(models.FilePrecision) == PRECISIONS
    assert get_args(models.Pixels) == PIXELS
    assert get_args(models.CheckpointKind) == tuple(KINDS)
    assert get_args(models.KeyNames) == tuple(OWN_ENDING)
    assert get_args(models.Network) == WHICH
    opset = inspect.signature(models.export).parameters["opset"]
    assert opset.default == OPSET
    assert f"{OPSETS[0]}, which most runtimes read, to {OPSETS[-1]}." in str(opset.annotation)
