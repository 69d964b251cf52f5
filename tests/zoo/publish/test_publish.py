"""One repository for five loaders: built, checked, uploaded, and refused where a check fails."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from hub_server import WRITE_TOKEN, HubServer
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.convert.convert import convert
from zoo.errors import UserError
from zoo.models import checkpoint_dir, config_reader
from zoo.models.registry import ARCHITECTURES, MODELS
from zoo.publish import publish
from zoo.publish.card import scores
from zoo.publish.card.facts import Agreement
from zoo.publish.card.gather import registry_facts, results_of
from zoo.system.atomic_files import sha256_file

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "goldens" / "byol_r14_free"
REPO = "org/golden"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official golden checkpoint as ``zoo convert`` writes it: TF padding, with all heads."""
    folder = tmp_path_factory.mktemp("converted") / "golden"
    convert(GOLDEN.with_suffix(".final.pkl"), "deepmind-byol", folder, licence="CC-BY-NC-4.0")
    return folder


@pytest.fixture(scope="module")
def repository(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `zoo publish --dry-run` writes."""
    folder = tmp_path_factory.mktemp("dry") / "run"
    assert command("publish", converted, "--repo", REPO, "--dry-run", folder) == 0
    return folder


def command(*arguments: str | Path) -> int:
    """The exit code of ``zoo``, in this process: importing torch again takes longer than all that it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
        return exit_code(app, "zoo", "")


def damaged(converted: Path, folder: Path, change: dict[str, torch.Tensor]) -> Path:
    """The converted model with other tensors, and the hashes that fit them."""
    shutil.copytree(converted, folder)
    save_file(load_file(folder / "model.safetensors") | change, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["siamese_zoo"]["sha256"]["model.safetensors"] = sha256_file(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_files_of_a_repository(converted: Path, repository: Path) -> None:
    files = {p.name for p in repository.iterdir()}
    assert files - {"model_int8.onnx"} == {*checkpoint_dir.FILES, "model.onnx", "README.md"}
    assert ("model_int8.onnx" in files) != ("There is no int8 file" in (repository / "README.md").read_text())
    for name in ("model.safetensors", "heads.safetensors", "config.json"):
        assert (repository / name).read_bytes() == (converted / name).read_bytes()
        assert (repository / name).stat().st_mode & 0o777 == (repository / "README.md").stat().st_mode & 0o777
    assert set(load_file(repository / "model.safetensors")) == set(zoo.load(converted).model.state_dict())
    onnx.checker.check_model(onnx.load(repository / "model.onnx", load_external_data=False))


def test_every_copy_gives_the_official_embedding(repository: Path) -> None:
    goldens, embedder = np.load(GOLDEN.with_suffix(".npz")), zoo.load(repository)
    image = torch.from_numpy(goldens["eval_image_65x65"]).float()
    x = ((image - torch.tensor(embedder.preprocessing.mean)) / torch.tensor(embedder.preprocessing.std)).permute(
        0, 3, 1, 2
    )
    with torch.no_grad():
        ours = embedder.model(x)
        heads = embedder.heads
        assert heads is not None
        assert heads.projector is not None
        pairs = [(ours, "embedding"), (heads.projector(ours), "projection")]
    for found, name in pairs:
        official = goldens[f"eval_{name}_65x65"]
        assert np.abs(found.numpy() - official).max() / np.abs(official).max() < 1e-4


def test_the_card(repository: Path) -> None:
    card = ModelCard.load(repository / "README.md")
    assert card.data.to_dict()["pipeline_tag"] == "image-feature-extraction"
    assert (card.data.library_name, card.data.license) == ("timm", "cc-by-nc-4.0")
    for wanted in (
        'zoo.load("hf-hub:org/golden")',
        'timm.create_model("hf-hub:org/golden", pretrained=True)',
        'AutoModel.from_pretrained("org/golden")',
        'pipeline("image-feature-extraction", model="org/golden")',
        'hf_hub_download("org/golden", "model.onnx")',
        "import zoo.timm_models",
        "not for commercial use",
        "@inproceedings{grill2020byol",
        "classifier, predictor, projector",
        "Measured when this was published, on 4 photographs",
        "pixels that tf.image.resize made",
        "by more on larger ones",
    ):
        assert wanted in " ".join(card.content.split()), wanted


def test_the_bundled_network_brings_its_scores(tmp_path: Path) -> None:
    done = publish.publish("byol_r18_mini", "org/mini", dry_run=tmp_path / "mini", int8=False)
    assert done.agreement.timm < 1e-5
    assert done.agreement.onnx < 1e-5
    card = ModelCard.load(tmp_path / "mini" / "README.md")
    told = {(r.dataset_name, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert told["Flowers-17", "kNN top-1, percent"] == 38.82
    entries = yaml.safe_load((tmp_path / "mini" / ".eval_results" / "tiny-imagenet.yaml").read_text())
    assert entries[0]["dataset"] == {"id": "zh-plus/tiny-imagenet", "task_id": "knn_top1"}
    assert {v.dtype for v in load_file(tmp_path / "mini" / "model.safetensors").values()} == {
        torch.float32,
        torch.int64,
    }
    with pytest.raises(UserError, match="holds something already"):
        publish.publish("byol_r18_mini", "org/mini", dry_run=tmp_path / "mini")


BUNDLED = ROOT / "model_cards" / "results" / "byol_r18_mini.tin64"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"weights_sha256": "0" * 64}}, "is of other weights: evaluate the model that is published"),
        ({"model": {"weights_sha256": None}}, "is of other weights"),
        ({"model": {"precision": "int8"}}, "was measured in int8"),
        ({"model": {"dim": 2048}}, "is of a network of another size"),
        ({"options": {"seed": 0, "k": "5"}}, "was measured with --set k, which the card does not say"),
    ],
)
def test_a_result_of_another_model_is_no_score_of_this_one(
    change: dict[str, dict[str, object]], message: str, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    shutil.copytree(BUNDLED, results)
    name = "knn.flowers17.byol_r18_mini.json"
    found = json.loads((results / name).read_text())
    for key, values in change.items():
        found[key] |= values
    (results / name).write_text(json.dumps(found))
    with pytest.raises(UserError, match=rf"{name} {message}"):
        publish.publish("byol_r18_mini", "org/mini", dry_run=tmp_path / "mini", results=results)


def test_results_of_this_model_are_taken_and_two_of_one_kind_are_not(tmp_path: Path) -> None:
    spec = MODELS["byol_r18_mini"]
    architecture, sha256 = ARCHITECTURES[spec.architecture], spec.weights["tin64"].sha256
    assert sha256 is not None
    found = results_of(BUNDLED, architecture, {sha256})
    assert len(found) == 12
    assert "**+11.4**" in scores.table(found)
    with pytest.raises(UserError, match="2 results of knn on tiny-imagenet for the trained network: keep one"):
        scores.table([*found, *found])
    transfer = [{**found[0], "protocol": "transfer", "metric": "mean per class"}]
    facts = replace(registry_facts("byol_r18_mini"), results=transfer)  # type: ignore[arg-type]
    assert [r.metric_name for r in scores.eval_results(facts)] == ["transfer mean per class, percent"]
    assert scores.evaluation_yaml(facts) == {}


def test_published_and_loaded_again(hub: HubServer, converted: Path, repository: Path, tmp_path: Path) -> None:
    done = publish.publish(converted, REPO, private=True, revision="v1", int8=False)
    assert done.commit == hub.repositories[REPO].branches["v1"]
    assert hub.count("POST .*/commit/") == 1
    assert hub.repositories[REPO].private
    live = hub.repositories[REPO].find("v1").files
    assert live["model.safetensors"] == (repository / "model.safetensors").read_bytes()
    embedder = zoo.load(f"hf-hub:{REPO}@v1")
    photo = ROOT / "examples" / "photos" / "cat_chelsea.jpg"
    np.testing.assert_array_equal(embedder(photo), zoo.load(converted)(photo))
    assert embedder.heads is not None
    data = pickle.dumps(embedder)
    assert f"hf-hub:{REPO}@{done.commit}".encode() in data  # a branch can move
    np.testing.assert_array_equal(pickle.loads(data)(photo), embedder(photo))
    assert embedder.weights_info["weights_sha256"] == sha256_file(converted / "model.safetensors")
    assert not any(WRITE_TOKEN.encode() in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert not any(WRITE_TOKEN.encode() in data for data in live.values())
    with pytest.raises(UserError, match="pretrained=False takes a name"):
        zoo.load(f"hf-hub:{REPO}", pretrained=False)


def test_publishing_again_keeps_what_was_written_around_the_generated_card(
    hub: HubServer, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user edits README.md on the hub: another key in its YAML, a text before and one after the generated block."""
    publish.publish(converted, REPO, int8=False)
    main = hub.repositories[REPO]
    files = main.find("main").files
    first = files["README.md"].decode()
    head, body = first.split("\n---\n", 1)
    edited = f"{head}\nfunding:\n- mine: 1\n---\nMy own words.\n\n{body}\n## Thanks\nTo you.\n"
    main.add("main", files | {"README.md": edited.encode()})
    publish.publish(converted, REPO, int8=False)
    assert main.find("main").files["README.md"].decode() == edited
    # An edit inside the block, or a card of somebody else, is not overwritten unasked.
    inside = first.replace("not for commercial use", "free for all", 1).encode()
    for other, what in ((inside, "was edited inside"), (b"# My model\n", "has no block")):
        before = main.add("main", files | {"README.md": other})
        with pytest.raises(UserError, match=f"README.md of {REPO} {what}.*nothing was published.*--overwrite-card"):
            publish.publish(converted, REPO, int8=False)
        assert main.branches["main"] == before
    assert command("publish", converted, "--repo", REPO, "--no-int8", "--overwrite-card") == 0
    assert main.find("main").files["README.md"].decode() == first


def test_values_that_are_not_finite_are_not_published(hub: HubServer, converted: Path, tmp_path: Path) -> None:
    folder = damaged(converted, tmp_path / "nan", {"stem.norm.bias": torch.full((8,), float("nan"))})
    with pytest.raises(UserError, match=r"not finite, first in stem\.norm\.bias"):
        publish.publish(folder, REPO)
    assert not hub.requests


def test_keys_that_do_not_fit_are_not_published(hub: HubServer, converted: Path, tmp_path: Path) -> None:
    folder = damaged(converted, tmp_path / "extra", {"projector.0.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"1 keys differ, first projector\.0\.weight"):
        publish.publish(folder, REPO)
    assert not hub.requests


def test_a_graph_that_differs_is_not_published(
    hub: HubServer, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the gate of `zoo export`, but not within the one of publishing."""
    monkeypatch.setattr(publish, "SAME", 1e-12)
    monkeypatch.setattr(publish, "compare_loaders", lambda *_: Agreement(4, 0.0, 0.0, 0.0))
    with pytest.raises(UserError, match=r"model\.onnx differs from torch by .* not published"):
        publish.publish(converted, REPO)
    assert not hub.requests


def test_timm_reading_other_preprocessing_is_not_published(
    hub: HubServer, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config is refused as it is read; without that, the comparison of the loaders would see it."""
    folder = tmp_path / "other"
    shutil.copytree(converted, folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["interpolation"] = "bilinear"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="interpolation of pretrained_cfg, which timm reads, is bilinear"):
        publish.publish(folder, REPO)
    monkeypatch.setattr(config_reader, "_require_same_transform", lambda timms, ours: None)
    with pytest.raises(UserError, match="timm with its own transform gives another embedding"):
        publish.publish(folder, REPO)
    assert not hub.requests


@pytest.mark.parametrize(
    ("model", "repo", "message"),
    [
        ("byol_r50.random", REPO, "random weights: there is nothing to publish"),
        ("run/checkpoint-10.pt", REPO, "zoo-train export run/checkpoint-10.pt"),
        ("examples", REPO, "zoo-train export examples"),
        ("byol_r18", REPO, "no released weights"),
        ("byol_r18_mini", "just-a-name", "is not a hub reference"),
        ("byol_r18_mini", "a/b/c", "is not a hub reference"),
        ("byol_r18_mini", "org/model@main", "names a revision, too"),
        ("byol_r18_mini", "org/a--b", "is not a repository name"),
        ("byol_r18_mini", "org/..", "is not a repository name"),
        ("nothing.safetensors", REPO, "no weights at"),
    ],
)
def test_what_cannot_be_published_is_said_in_one_line(hub: HubServer, model: str, repo: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        publish.publish(model, repo)
    assert "\n" not in str(error.value)
    assert not hub.requests


def test_what_an_upload_lacks_is_said_before_the_build(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(publish, "build", lambda *args, **options: pytest.fail("it builds"))
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(UserError, match=r"no token for http://127.*: set HF_TOKEN"):
        publish.publish("byol_r18_mini", REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="while HF_HUB_OFFLINE is set"):
        publish.publish("byol_r18_mini", REPO)
    assert not hub.requests


def test_an_error_of_the_command_is_one_line(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("publish", "byol_r50.random", "--repo", REPO) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("zoo: error: byol_r50.random has random weights")
    assert errors.count("\n") == 1
