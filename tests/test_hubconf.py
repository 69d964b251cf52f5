"""torch.hub from a plain clone."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hubconf
import zoo
from zoo.convert.convert import convert
from zoo.errors import UserError
from zoo.hub.weights import BUNDLED
from zoo.models.registry import ARCHITECTURES, DEFAULT_MODEL, MODELS

ROOT = str(Path(__file__).parents[1])
PHOTO = Path(ROOT) / "examples" / "photos" / "cat_chelsea.jpg"


@pytest.fixture
def cached_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """This clone where torch.hub keeps what it has downloaded; list and help know no other source."""
    (tmp_path / "somebody_siamese-zoo_main").symlink_to(ROOT)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return "somebody/siamese-zoo:main"


def test_list_and_help_know_every_name(cached_repository: str) -> None:
    quiet = {"skip_validation": True, "trust_repo": True}
    assert sorted(torch.hub.list(cached_repository, **quiet)) == sorted([*MODELS, "encoder"])
    for name in MODELS:
        text = torch.hub.help(cached_repository, name, **quiet)
        assert "pretrained" in text
        assert str(ARCHITECTURES[MODELS[name].architecture].num_features) in text


@pytest.mark.parametrize("name", MODELS)
def test_every_name_gives_its_architecture(name: str) -> None:
    with torch.device("meta"):
        model = torch.hub.load(ROOT, name, source="local", pretrained=False)
    assert not model.training
    expected = ARCHITECTURES[MODELS[name].architecture]
    assert sum(p.numel() for p in model.parameters()) == expected.parameters


def test_the_bundled_network_by_name_tag_and_path(random_weights: Path) -> None:
    embedder = zoo.load()
    x = embedder.transform(PHOTO)[None]
    tag = MODELS[DEFAULT_MODEL].default_tag
    for options in ({}, {"weights": tag}, {"weights": str(BUNDLED / f"{DEFAULT_MODEL}.{tag}.safetensors")}):
        model = torch.hub.load(ROOT, DEFAULT_MODEL, source="local", **options)
        with torch.no_grad():
            np.testing.assert_allclose(model(x).numpy(), embedder(PHOTO), rtol=1e-4, atol=1e-5)
        assert model.preprocessing == embedder.preprocessing
    other = torch.hub.load(ROOT, "byol_r18", source="local", weights=str(random_weights))
    assert not torch.equal(other.conv1.weight, model.conv1.weight)


def test_no_weights_no_network(random_weights: Path) -> None:
    with pytest.raises(UserError, match="no released weights"):
        torch.hub.load(ROOT, "byol_r18", source="local")
    with pytest.raises(UserError, match="has no weights 'nothing'"):
        torch.hub.load(ROOT, "byol_r18", source="local", weights="nothing")
    with pytest.raises(UserError, match="is a resnet18 with 100 tensors and 512 features, byol_r50 is a resnet50"):
        torch.hub.load(ROOT, "byol_r50", source="local", weights=str(random_weights))
    with pytest.raises(UserError, match="contradict"):
        torch.hub.load(ROOT, "byol_r18", source="local", weights=str(random_weights), pretrained=False)


def test_a_classifier_or_a_pyramid_on_request() -> None:
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = torch.hub.load(ROOT, DEFAULT_MODEL, source="local")
        classifier = torch.hub.load(ROOT, DEFAULT_MODEL, source="local", num_classes=7)
        assert classifier(x).shape == (2, 7)
        torch.testing.assert_close(classifier.fc(plain(x)), classifier(x))
        pyramid = torch.hub.load(ROOT, DEFAULT_MODEL, source="local", features_only=True)
        maps = pyramid(x)
        assert [m.shape[1:] for m in maps] == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
        assert pyramid.feature_info.channels() == [64, 64, 128, 256, 512]
        torch.testing.assert_close(maps[-1].mean((2, 3)), plain(x))
        wide = torch.hub.load(ROOT, "byol_r50", source="local", pretrained=False, features_only=True)
        assert [m.shape[1] for m in wide(x)] == [64, 256, 512, 1024, 2048]
    with pytest.raises(UserError, match="contradict each other: a pyramid has no classifier"):
        torch.hub.load(ROOT, DEFAULT_MODEL, source="local", num_classes=7, features_only=True)
    with pytest.raises(UserError, match="num_classes is -1"):
        torch.hub.load(ROOT, DEFAULT_MODEL, source="local", num_classes=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": "10"}, "num_classes is '10': give a whole number"),
        ({"num_classes": True}, "num_classes is 'True'"),
        ({"num_classes": 10**12}, "num_classes is '1000000000000': give a whole number up to 1,048,576"),
        ({"in_chans": 2.5}, "in_chans is '2.5'"),
        ({"in_chans": None}, "in_chans is 'None'"),
        ({"features_only": True, "out_indices": 4}, "out_indices is '4': give a list"),
        ({"features_only": True, "out_indices": [[1]]}, "out_indices is .*: give a list"),
        ({"features_only": True, "out_indices": (0, 0)}, "each once"),
        ({"out_indices": (1, 2)}, "add features_only=True"),
        ({"weights": ""}, "weights is '': give the path"),
        ({"weights": 3}, "weights is '3': give the path"),
        ({"weights": "x" * 5000}, "has no weights 'xxx"),
    ],
    ids=str,
)
def test_arguments_of_another_kind_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        torch.hub.load(ROOT, DEFAULT_MODEL, source="local", **options)
    assert "\n" not in str(error.value)


def top_level_names_of_the_rest() -> list[str]:
    """What can be imported here beyond the packages that hubconf.py names and what those require."""
    pending, kept = [canonicalize_name(name) for name in hubconf.dependencies], {canonicalize_name("siamese-zoo")}
    while pending:
        if (name := pending.pop()) not in kept and (found := installed(name)):
            kept.add(name)
            requirements = [Requirement(r) for r in found.requires or []]
            wanted = [r for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]
            pending += [canonicalize_name(r.name) for r in wanted]
    modules = metadata.packages_distributions()
    return sorted(m for m, owners in modules.items() if not kept & {canonicalize_name(o) for o in owners})


def installed(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def in_a_fresh_process(code: str) -> str:
    """With all other packages blocked, another current folder, and nobody to answer a question."""
    blocked = top_level_names_of_the_rest()
    assert {"typer", "rich", "pyarrow", "onnx", "pytest"} <= set(blocked)
    assert not {"torch", "timm", "numpy", "PIL", "huggingface_hub", "yaml"} & set(blocked)
    # importing a name whose entry is None raises ModuleNotFoundError
    start = f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\nimport torch\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_entry_in_a_process_with_only_the_documented_packages() -> None:
    """All on the meta device, so that the ones of gigabytes load too; the bundled one for real."""
    told = in_a_fresh_process(f"""
for name in {list(MODELS)!r}:
    with torch.device("meta"):
        model = torch.hub.load({ROOT!r}, name, source="local", pretrained=False)
    print(name, sum(p.numel() for p in model.parameters()))
model = torch.hub.load({ROOT!r}, {DEFAULT_MODEL!r}, source="local")
print(tuple(model(torch.zeros(1, 3, 48, 48)).shape))
""")
    *lines, shape = told.splitlines()
    assert shape == "(1, 512)"
    assert lines == [f"{name} {ARCHITECTURES[spec.architecture].parameters}" for name, spec in MODELS.items()]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_entry_embeds_in_a_fresh_process(name: str) -> None:
    """One process after the other: the widest needs several GB. With its weights where they ship."""
    tag = MODELS[name].default_tag
    ships = tag is not None and MODELS[name].weights[tag].bundled
    told = in_a_fresh_process(f"""
model = torch.hub.load({ROOT!r}, {name!r}, source="local", pretrained={ships})
with torch.inference_mode():
    embedding = model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
print(tuple(embedding.shape), bool(embedding.isfinite().all()), bool(embedding.std() > 0))
""")
    assert told.strip() == f"(1, {ARCHITECTURES[MODELS[name].architecture].num_features}) True True"


def test_weights_of_another_depth_are_refused_where_the_features_are_as_many(tmp_path: Path) -> None:
    """A ResNet-34 gives 512 numbers too."""
    import timm

    torch.save(timm.create_model("resnet34", num_classes=0).state_dict(), tmp_path / "r34.pth")
    convert(tmp_path / "r34.pth", "torch", tmp_path / "r34")
    with pytest.raises(UserError, match=r"r34 is a resnet34 .*, byol_r18 is a resnet18 .*: give weights of the same"):
        torch.hub.load(ROOT, "byol_r18", source="local", weights=str(tmp_path / "r34"))


@pytest.mark.parametrize("name", ["simclr_r18_mini", "byol_r50x2"])
def test_a_pyramid_is_scripted_with_the_maps_that_are_asked_for(name: str, tmp_path: Path) -> None:
    options = {"source": "local", "features_only": True, "pretrained": name == "simclr_r18_mini"}
    model = torch.hub.load(ROOT, name, out_indices=(2, 4), **options)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, scripted = model(x), torch.jit.script(model)(x)
        whole = torch.hub.load(ROOT, name, **options)(x)
    assert len(maps) == len(scripted) == 2
    for ours, script, index in zip(maps, scripted, (2, 4), strict=True):
        torch.testing.assert_close(ours, whole[index])
        torch.testing.assert_close(ours, script)
    torch.onnx.export(model, (x,), tmp_path / "maps.onnx", dynamo=True)
    assert (tmp_path / "maps.onnx").stat().st_size > 1000
    for wrong in ((), (5,), (-1,)):
        with pytest.raises(UserError, match="give some of 0, 1, 2, 3, 4"):
            torch.hub.load(ROOT, name, out_indices=wrong, **options)


def test_two_networks_give_embeddings_only() -> None:
    module = torch.hub.load(str(ROOT), "cmc_r50", source="local", pretrained=False)
    assert module(torch.randn(1, 3, 64, 64)).shape == (1, 2048)
    for options in ({"num_classes": 5}, {"features_only": True}, {"in_chans": 1}):
        with pytest.raises(zoo.UserError, match="is two networks"):
            torch.hub.load(str(ROOT), "cmc_r50", source="local", pretrained=False, **options)


def test_gray_and_four_channels() -> None:
    rgb, gray, four = (torch.hub.load(ROOT, DEFAULT_MODEL, source="local", in_chans=n) for n in (3, 1, 4))
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(gray(x), rgb(x.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-4)
        assert four(torch.randn(2, 4, 64, 64)).shape == (2, 512)
