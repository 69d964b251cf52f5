"""A card says what the registry and the measured JSON say."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from training.recipes.table import RECIPES
from zoo.errors import UserError
from zoo.models.registry import DEFAULT_MODEL, MODELS
from zoo.publish.card import render as renderer
from zoo.publish.card.gather import CARDS, card_path, load_results, registry_facts
from zoo.publish.card.render import render, write
from zoo.publish.card.scores import PROTOCOLS, table
from zoo.publish.card.wording import hub_licence

WEIGHTS = [f"{name}.{tag}" for name, spec in MODELS.items() for tag in spec.weights]


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_card_is_what_the_command_writes(name: str) -> None:
    assert card_path(name).read_text() == render(registry_facts(name))


def test_an_installed_package_does_not_change_its_own_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``.ci/wheel`` tries the same with a real wheel."""
    packaged = tmp_path / "zoo" / "bundled"
    packaged.mkdir(parents=True)
    monkeypatch.setattr("zoo.system.shipped._bundled", lambda: packaged)
    monkeypatch.setattr(renderer, "card_path", lambda name: packaged / f"{name}.md")
    with pytest.raises(UserError, match="give --out FILE"):
        write("byol_r50")
    assert not any(packaged.iterdir())
    card = write("byol_r50", tmp_path / "new" / "card.md")
    assert card.read_text() == card_path("byol_r50").read_text()


def test_the_default_tag_has_the_bare_name() -> None:
    assert card_path("byol_r50") == card_path("byol_r50.deepmind_in1k") == CARDS / "byol_r50.md"
    assert card_path("mocov2_r50.fair_in1k_200ep") == CARDS / "mocov2_r50.fair_in1k_200ep.md"


def test_another_tag_s_card_is_of_its_own_weights() -> None:
    text = " ".join(card_path("mocov2_r50.fair_in1k_200ep").read_text().split())
    assert 'zoo.load("mocov2_r50.fair_in1k_200ep")' in text
    assert "| ImageNet linear top-1 | 67.7 |" in text
    assert "Other weights of this network: `mocov2_r50.fair_in1k_800ep`, `mocov2_r50.pycontrast" in text
    assert "zoo-train run mocov2_r50_in1k_800ep" not in text  # that would give the others
    assert "zoo-train run mocov2_r50_in1k_800ep" in card_path("mocov2_r50").read_text()


def test_there_is_no_card_of_something_else() -> None:
    assert set(CARDS.glob("*.md")) == {card_path(name) for name in WEIGHTS}
    assert len({card_path(name) for name in WEIGHTS}) == len(WEIGHTS)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_card_says_what_a_reader_needs(name: str) -> None:
    facts = registry_facts(name)
    told = ModelCard(render(registry_facts(name)))
    assert told.data.pipeline_tag == "image-feature-extraction"
    assert told.data.license == hub_licence(facts.licence)["license"]
    for heading in (
        "Intended use",
        "Use",
        "Training",
        "Evaluation",
        "Limits and bias",
        "Compute and carbon",
        "Licence",
    ):
        assert f"\n## {heading}\n" in told.content
    assert ("not for commercial use" in told.content) == ("NC" in facts.licence)
    assert "@" in told.content.partition("## Cite")[2]
    for score in facts.published:
        assert f"| {score.text} | {score.where} |" in told.content


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_card_says_who_publishes_a_hash(name: str) -> None:
    facts = registry_facts(name)
    (row,) = [line for line in card_path(name).read_text().splitlines() if line.startswith("| file | ")]
    if facts.hash_prefix:
        assert f"{facts.hash_prefix.algorithm} begins with `{facts.hash_prefix.digits}`" in row
    else:
        assert (f"sha256 `{facts.sha256}`" if facts.sha256 else "its authors publish no hash") in row


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_official_card_says_that_the_recipe_here_is_in_bf16(name: str) -> None:
    facts = registry_facts(name)
    method = {"moco": "mocov2"}.get(facts.method, facts.method)
    recipes = [entry.make() for entry in RECIPES.values() if entry.data.startswith("ImageNet")]
    formats = {recipe.precision for recipe in recipes if recipe.method == method}
    section = " ".join(card_path(name).read_text().partition("## Training")[2].partition("\n## ")[0].split())
    same_recipe = facts.method != "supervised" or bool(facts.recipe)  # later supervised weights have another one
    said = "The training recipe here uses bf16 autocast by default" in section
    assert said == (facts.official and formats == {"bf16"} and same_recipe)
    mixed = facts.method in ("swav", "barlowtwins", "vicreg", "mocov3")  # apex O1, torch.cuda.amp
    assert ("`precision=fp32` reproduces the original." in section) == (said and not mixed)
    assert ("the original mixed fp16" in section) == (said and mixed)


def test_the_cards_of_moco_say_both_licences() -> None:
    for name in ("mocov2_r50", "mocov2_r50.fair_in1k_200ep", "mocov1_r50"):
        text = " ".join(card_path(name).read_text().partition("## Licence")[2].split())
        assert text.startswith("MIT: permits commercial use. Stated in facebookresearch/moco: LICENSE at 132aea9. ")
        assert " Its authors say two things" in text
        assert "its README still says CC-BY-NC 4.0" in text


def test_a_card_says_what_it_was_trained_on_and_how_to_get_it() -> None:
    text = " ".join(card_path("densecl_r50.wxinlong_coco_800ep").read_text().split())
    assert "Trained by the method's authors on the training images of COCO, without their labels" in text
    assert "It has seen ImageNet" not in text
    text = " ".join(card_path("jigsaw_r50.goyal19_yfcc100m").read_text().split())
    assert "Trained by vissl, which trains many methods, on images of YFCC100M" in text
    text = " ".join(card_path("infomin_r50").read_text().split())
    assert "by hand, then `zoo fetch infomin_r50.pycontrast_in1k_800ep --file FILE`: InfoMin_800.pth lies in" in text


def test_a_card_names_the_groups_of_a_resnext_and_who_trained_it() -> None:
    text = " ".join(card_path("infomin_x152_32x8d").read_text().split())
    assert "A ResNeXt-152 (32x8d) trained with InfoMin Aug." in text
    assert "| ImageNet linear top-1 | 75.2 | HobbitLong/PyContrast, README |" in text
    text = " ".join(card_path("mocov1_r50.hobbitlong_in1k_200ep").read_text().split())
    assert "Trained by CMC's authors on the 1,281,167" in text
    text = " ".join(card_path("cmc_r50").read_text().split())
    assert "Trained by the method's authors on" in text


def test_supervised_cards_say_so() -> None:
    for tag in MODELS["supervised_r50"].weights:
        text = " ".join(card_path(f"supervised_r50.{tag}").read_text().split())
        assert "with their labels" in text
        assert "self-supervised" not in text
        assert ("A later, stronger recipe" in text) == (tag != "tv_v1")


def test_an_ablation_s_card_has_the_mean_and_says_that_one_seed_was_released() -> None:
    text = card_path("byol_r50.deepmind_in1k_batchsize_64").read_text()
    assert "mean of three seeds; one of them released | 59.7 ± 1.5 | arXiv 2006.07733, table 16 |" in text


def test_the_measured_weights_are_the_bundled_ones_and_beat_random() -> None:
    spec = MODELS[DEFAULT_MODEL]
    tag = spec.default_tag
    assert tag is not None
    results = load_results(DEFAULT_MODEL, tag)
    assert len(results) == 2 * len({r["data"]["name"] for r in results}) * len(PROTOCOLS)
    scores: dict[tuple[str, str], dict[bool, float]] = {}
    for result in results:
        is_random = result["model"]["weights_sha256"] is None
        if not is_random:
            assert result["model"]["weights_sha256"] == spec.weights[tag].sha256
        scores.setdefault((result["protocol"], result["data"]["name"]), {})[is_random] = result["score"]
    for key, pair in scores.items():
        assert pair[False] > pair[True], key


def test_the_page_of_results_has_the_same_table() -> None:
    tag = MODELS[DEFAULT_MODEL].default_tag
    assert tag is not None
    assert table(load_results(DEFAULT_MODEL, tag)) in (CARDS.parent / "docs" / "results.md").read_text()


def test_a_name_without_weights_has_no_card() -> None:
    with pytest.raises(UserError, match="byol_r18 has no card: it has no released weights"):
        registry_facts("byol_r18")
