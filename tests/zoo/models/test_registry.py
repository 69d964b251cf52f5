"""The table of models, and the commands that show it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.errors import UserError
from zoo.models import registry
from zoo.models.registry import ARCHITECTURES, DEFAULT_MODEL, MODELS
from zoo.report.tables import published

ROOT = Path(__file__).parents[3]


def test_all_architectures_of_both_methods_are_there() -> None:
    for method in ("byol", "simsiam"):
        for architecture in ("r18", "r50", "r50x2", "r50x4", "r200", "r200x2"):
            spec = MODELS[f"{method}_{architecture}"]
            assert (spec.method, spec.architecture) == (method, architecture)


def test_every_entry_has_its_parts() -> None:
    from training.recipes.table import RECIPES
    from zoo.convert.convert import KINDS
    from zoo.publish.card.wording import DATA_SETS, METHODS

    for name, spec in MODELS.items():
        assert name == spec.name
        assert spec.architecture in ARCHITECTURES
        assert spec.recipe in RECIPES or (spec.recipe == "" and spec.weights), name
        for tag, weights in spec.weights.items():
            assert weights.licence, (name, tag)
            assert weights.source, (name, tag)
            assert weights.kind in KINDS or weights.bundled, (name, tag)
            assert weights.data in DATA_SETS, (name, tag)
        assert spec.method in METHODS, name


def test_official_weights_are_the_default_of_the_papers_names() -> None:
    assert MODELS["byol_r50"].default_tag == "deepmind_in1k"
    assert MODELS["byol_r50"].weights["deepmind_in1k"].padding == "same"
    assert MODELS["byol_r200x2"].default_tag == "deepmind_in1k"
    assert MODELS["simsiam_r50"].default_tag == "fair_in1k_100ep"


def test_the_ablations_have_the_scores_of_the_published_tables() -> None:
    rows = {}
    for table in published():
        if table["id"] in ("ablation-batch-size", "ablation-views"):
            rows |= {row["method"]: (row["values"][0], (row.get("spread") or [None])[0]) for row in table["rows"]}
    named = {"no_grayscale": "remove grayscale", "no_color": "remove color"}
    found = {}
    for tag, weights in MODELS["byol_r50"].weights.items():
        if (name := tag.removeprefix("deepmind_in1k_")) != tag:
            (score,) = weights.scores
            assert "mean of three seeds; one of them released" in score.protocol
            found[tag] = name
            row = named.get(name, name.replace("batchsize_", "batch ").replace("_", " "))
            assert (score.value, score.spread) == rows[row]
    assert len(found) == 12


def test_every_score_was_looked_up_but_those_that_say_so() -> None:
    for spec in MODELS.values():
        for tag, weights in spec.weights.items():
            for score in weights.scores:
                assert score.verified, (spec.name, tag)


def test_every_url_is_used_once_and_a_hash_in_a_name_is_the_registry_s() -> None:
    official = [w for spec in MODELS.values() for w in spec.weights.values() if not w.bundled]
    assert len({w.location for w in official}) == len(official)
    for weights in official:
        assert weights.location.startswith("https://")
        if weights.hash_prefix:
            assert re.fullmatch(r"[0-9a-f]{8}", weights.hash_prefix.digits)
            assert weights.hash_prefix.algorithm in ("md5", "sha256")
        if in_name := re.search(r"-([0-9a-f]{8})\.pth$", weights.location):
            assert weights.hash_prefix is not None
            assert (weights.hash_prefix.algorithm, weights.hash_prefix.digits) == ("sha256", in_name[1])


def test_moco_s_hashes_are_those_of_its_readme() -> None:
    expected = {"mocov1_r50.fair_in1k_200ep": "b251726a"}
    expected |= {"mocov2_r50.fair_in1k_200ep": "59fd9945", "mocov2_r50.fair_in1k_800ep": "a04e12f8"}
    for name, digits in expected.items():
        base, _, tag = name.partition(".")
        prefix = MODELS[base].weights[tag].hash_prefix
        assert prefix is not None
        assert (prefix.algorithm, prefix.digits) == ("md5", digits)


def test_the_supervised_weights_are_those_of_torchvision_and_timm_as_installed() -> None:
    from math import floor

    from timm.models import get_pretrained_cfg
    from torchvision.models import ResNet50_Weights
    from torchvision.transforms import InterpolationMode

    weights = dict(MODELS["supervised_r50"].weights)
    assert MODELS["supervised_r50"].default_tag == "tv_v1"
    for tag, official in (("tv_v1", ResNet50_Weights.IMAGENET1K_V1), ("tv_v2", ResNet50_Weights.IMAGENET1K_V2)):
        ours, transform = weights.pop(tag), official.transforms()
        assert ours.location == official.url
        assert [s.value for s in ours.scores] == list(official.meta["_metrics"]["ImageNet-1K"].values())
        assert transform.interpolation == InterpolationMode.BILINEAR
        expected = (transform.crop_size, transform.resize_size, "bilinear", tuple(transform.mean), tuple(transform.std))
        found = ours.preprocessing
        assert (
            [found.input_size],
            [found.resize],
            found.interpolation,
            found.mean,
            found.std,
        ) == expected
    for tag, ours in weights.items():
        cfg = get_pretrained_cfg(f"resnet50.{tag.removeprefix('timm_')}_in1k")
        at_224 = cfg.test_input_size == (3, 224, 224)
        crop = cfg.test_crop_pct if at_224 else cfg.crop_pct
        assert at_224 or cfg.input_size == (3, 224, 224)
        assert ours.location == cfg.url
        assert ours.licence.lower() == cfg.license
        found = ours.preprocessing
        assert (found.input_size, found.resize) == (224, floor(224 / crop))
        assert (found.interpolation, found.mean, found.std) == (cfg.interpolation, cfg.mean, cfg.std)


def test_every_method_of_the_seed_s_tables_is_listed_and_trains() -> None:
    """ "Number only" is none of them; [B] is the paper of BYOL, [S] that of SimSiam."""
    from training.methods.find import METHODS
    from training.recipes.table import RECIPES

    names = {"Local Agg.": "localagg", "PIRL": "pirl", "CMC": "cmc", "InstDisc": "instdisc", "InfoMin Aug.": "infomin"}
    names |= {"SimCLR": "simclr", "MoCo v2": "moco", "MoCo": "mocov1", "BYOL": "byol", "SwAV": "swav"}
    names |= {"SimSiam": "simsiam", "Supervised": "supervised", "CPC v2": "cpc"}
    seed = {re.sub(r" \(.*|, .*", "", row["method"]) for table in published() for row in table["rows"]
            if table["protocol"] in ("linear-sgd", "linear-lars", "semi-supervised")}  # fmt: skip
    assert seed == set(names)
    trained = {entry.make().method for entry in RECIPES.values()}
    trained |= {"moco"} if "mocov2" in trained else set()
    trained |= {"mocov1"} if "mocov1_r50_in1k_200ep" in RECIPES else set()  # MoCo v2's code without its head
    listed = {spec.method for spec in MODELS.values()}
    for method in set(names.values()) - ({"cpc"} - set(METHODS)):
        assert method in listed, method
        assert method in trained, method


def test_a_licence_is_the_one_that_its_source_states() -> None:
    from zoo.models.licences import STATED, where_stated

    found = set()
    for spec in MODELS.values():
        for tag, weights in spec.weights.items():
            source = weights.source.partition(",")[0]
            if source in STATED:
                found.add(source)
                assert weights.licence == STATED[source][0], (spec.name, tag)
                assert where_stated(weights.source) == STATED[source][1]
    assert found == set(STATED)
    assert where_stated("this project") == ""


def test_weights_that_no_program_can_download_say_how_to_get_them() -> None:
    for spec in MODELS.values():
        for tag, weights in spec.weights.items():
            shared = weights.location.startswith("https://www.dropbox.com/sh/")
            assert ("only a browser opens" in weights.by_hand) == shared, (spec.name, tag)
            assert shared == ("#" in weights.location)
            if "blob.core.windows.net" in weights.location:
                assert "no longer serves it" in weights.by_hand
            for name in re.findall(r"\w+\.\w+_in1k_\w+", weights.by_hand):  # what replaces it
                base, _, other = name.partition(".")
                assert not MODELS[base].weights[other].location.startswith("https://frontiers")


def test_simclr_is_fetched_from_the_host_without_a_login() -> None:
    for name in ("simclr_r50", "simclr_r50x2", "simclr_r50x4"):
        weights = MODELS[name].weights["google_in1k"]
        assert weights.location.startswith("https://storage.googleapis.com/simclr-gcs/")
        assert weights.other_link.startswith("https://storage.cloud.google.com/simclr-gcs/")
        assert "asks for a Google login" in weights.other_link


def test_bundled_weights_exist_with_their_hash_and_size() -> None:
    from zoo.hub.weights import BUNDLED
    from zoo.system.atomic_files import sha256_file

    weights = next(iter(MODELS[DEFAULT_MODEL].weights.values()))
    file = BUNDLED / weights.location.removeprefix("bundled:")
    assert sha256_file(file) == weights.sha256
    assert file.stat().st_size < 50e6


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean byol_r50\?"):
        registry.find("byol_r05")


@pytest.mark.parametrize("command", [["--help"], ["list"]])
def test_help_and_list_do_not_import_torch(command: list[str]) -> None:
    """What makes them answer in under half a second; a time is not asserted, the cause is."""
    code = (
        "import sys; from zoo.cli.app import exit_code; from zoo.cli.main import app; "
        "sys.argv = ['zoo', *sys.argv[1:]]; code = exit_code(app, 'zoo', ''); "
        "heavy = {'torch', 'timm', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules); "
        "print(sorted(heavy), file=sys.stderr); sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("byol_r200x2" in done.stdout) == (command == ["list"])


def test_list_and_info_say_what_has_no_weights() -> None:
    env = os.environ | {"COLUMNS": "60"}  # a narrow terminal must not cut names
    listed = subprocess.run(
        [sys.executable, "-m", "zoo", "list"], cwd=ROOT, capture_output=True, text=True, check=True, env=env
    ).stdout
    assert all(name in listed for name in MODELS)
    told = subprocess.run(
        [sys.executable, "-m", "zoo", "info", "byol_r50x2"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    moco, simclr = (
        subprocess.run(
            [sys.executable, "-m", "zoo", "info", name], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in ("mocov2_r50", "simclr_r50")
    )
    assert "md5 a04e12f8... (facebookresearch/moco, README), verified at every download" in moco
    assert "CC-BY-NC 4.0" in moco
    assert "published hash  none by its authors" in simclr
    assert "asks for a Google login" in simclr
    assert "none released" in told
    assert "zoo-train run byol_r50x2_in1k_1000ep" in told
