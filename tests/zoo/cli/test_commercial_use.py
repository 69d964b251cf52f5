"""May I use it commercially: the answer in ``zoo list``, ``zoo info``, the JSON and the cards."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest
from terminals import written_to

import zoo.cli.main
from zoo.cli.app import exit_code
from zoo.errors import EXIT_OK, EXIT_USER_ERROR, without_secrets
from zoo.models.licences import STATED, announce, commercial_use, permits_commercial_use
from zoo.models.registry import MODELS

Capture = pytest.CaptureFixture[str]


def run(monkeypatch: pytest.MonkeyPatch, capsys: Capture, *words: str, code: int = EXIT_OK) -> tuple[str, str]:
    monkeypatch.setattr("sys.argv", ["zoo", *words])
    assert exit_code(zoo.cli.main.app, "zoo", "") == code
    caught = capsys.readouterr()
    return caught.out, " ".join(caught.err.split())


@pytest.mark.parametrize(
    ("licence", "permitted", "words"),
    [
        ("MIT", True, "permits commercial use"),
        ("BSD-2-Clause", True, "permits commercial use"),
        ("CC-BY-4.0", True, "permits commercial use"),
        ("GPL-3.0", True, "permits commercial use, under its own terms for what is derived"),
        ("CC-BY-NC-4.0", False, "not for commercial use"),
        ("cc-by-nc-sa-4.0", False, "not for commercial use"),
        ("unknown", None, "none is stated, which permits no use: ask the owner"),
        ("", None, "none is stated, which permits no use: ask the owner"),
        ("LicenseRef-research-only", None, "read whether it permits commercial use"),
    ],
)
def test_a_licence_permits_forbids_or_says_nothing(licence: str, permitted: bool | None, words: str) -> None:
    assert permits_commercial_use(licence) is permitted
    assert commercial_use(licence) == words


def test_loading_tells_what_is_forbidden_or_not_permitted_once(capsys: Capture) -> None:
    """Of weights whose authors state no licence nothing was said."""
    for _ in range(2):
        announce("told.a", "CC-BY-NC-4.0", "somebody/weights")
        announce("told.b", "unknown", "zhirongw/lemniscate.pytorch")
        announce("told.c", "unknown", "unknown")  # a file of the user's own
        announce("told.d", "MIT", "somebody/weights")
    assert capsys.readouterr().err.splitlines() == [
        "told.a: licence CC-BY-NC-4.0, not for commercial use; source: somebody/weights",
        "told.b: licence unknown, none is stated, which permits no use: ask the owner; "
        "source: zhirongw/lemniscate.pytorch",
    ]


def test_every_publisher_s_licence_was_looked_up() -> None:
    """But torchvision's and this project's, which are installed here."""
    sources = {w.source.partition(",")[0] for spec in MODELS.values() for w in spec.weights.values() if not w.bundled}
    assert sources - set(STATED) == {"torchvision"}


def test_info_answers(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for name, *wanted in (
        ("swav_r50", "CC-BY-NC-4.0 (not for commercial use)", "Stated in LICENSE and README.md:192 at 06b1b7c."),
        ("simsiam_r50", "CC-BY-NC-4.0 (not for commercial use)", "Stated in LICENSE and README.md:96 at a7bc177."),
        (
            "byol_r50",
            "CC-BY-NC-4.0 (not for commercial use)",
            "byol/README.md:208-212 at f5de0ed, of the weights apart",
        ),
        ("vicreg_r50", "MIT (permits commercial use)", "Stated in LICENSE and README.md:114"),
        ("mocov2_r50", "MIT (permits commercial use)", "its README still says CC-BY-NC 4.0"),
        ("densecl_r50", "GPL-3.0 (permits commercial use, under its own terms for what is derived)"),
        (
            "instdisc_r18",
            "unknown (none is stated, which permits no use: ask the owner)",
            "has no licence file: ask its",
        ),
        (
            "jigsaw_r50.goyal19_in1k",
            "MIT (permits commercial use)",
            "fair_self_supervision_benchmark, says CC-BY-NC 4.0",
        ),
        ("instdisc_r50", "MIT (permits commercial use)", "those who trained it has no licence file"),
        ("supervised_r50.timm_a1", "one should assume that ImageNet's terms, non-commercial research, apply"),
        ("supervised_r50", "weights may have terms of their own, derived from the data"),
    ):
        said = " ".join(run(monkeypatch, capsys, "info", name)[0].split())
        for text in wanted:
            assert text in said, name


def test_a_file_of_a_shared_folder_is_named_with_an_address_that_opens(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The address ended in ``?...`` in place of its query, and the file's name was lost with it."""
    place = "InfoMin_800.pth in https://www.dropbox.com/sh/87d24jqsl6ra7t2/AABdDXZZBTnMQCBrg1yrQKVCa"
    assert f"    file      {place}\n" in run(monkeypatch, capsys, "info", "infomin_r50")[0]
    error = run(monkeypatch, capsys, "fetch", "infomin_r50", code=EXIT_USER_ERROR)[1]
    assert f"({place}): `zoo fetch infomin_r50.pycontrast_in1k_800ep --file FILE`" in error
    for spec in MODELS.values():
        for weights in spec.weights.values():
            assert "?..." not in without_secrets(weights.place), weights.location


def test_a_card_of_a_tag_that_is_not_there_names_the_tags(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    error = run(monkeypatch, capsys, "card", "swav_r50.nope", code=EXIT_USER_ERROR)[1]
    assert "swav_r50.nope has no card: its tags: fair_in1k_800ep, fair_in1k_400ep" in error


def test_json_has_the_answer_and_only_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """With a licence, ``--json`` printed all weights of a name, those of other licences too."""
    every = json.loads(run(monkeypatch, capsys, "list", "--json")[0])
    answers = {weights["licence"]: weights["commercial_use"] for model in every for weights in model["weights"]}
    assert answers["MIT"] is True
    assert answers["CC-BY-NC-4.0"] is False
    assert answers["unknown"] is None
    assert sum(len(model["weights"]) for model in every) == sum(len(spec.weights) for spec in MODELS.values())
    for words in (("--tags",), ()):
        models = json.loads(run(monkeypatch, capsys, "list", "--json", "--licence", "commercial", *words)[0])
        assert all(weights["commercial_use"] for model in models for weights in model["weights"])
        assert all(model["weights"] for model in models)
        assert ("swav_r50" in [model["name"] for model in models]) == (words != ())


def test_a_name_whose_other_weights_have_the_licence_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """SwAV's own weights are non-commercial, VISSL's are not: the list did not say so."""
    out, err = run(monkeypatch, capsys, "list", "swav", "--licence", "commercial")
    assert len(out.splitlines()) == 1  # the head
    assert err.startswith("no model passes all of these filters also under other tags than the default (--tags): ")
    assert err.endswith("swav_r50, swav_r50x2, swav_r50x4; such as swav_r50.vissl_in1k_800ep")
    assert run(monkeypatch, capsys, "list", "swav", "--licence", "commercial", "--tags")[1] == ""
    assert run(monkeypatch, capsys, "list", "vicreg", "--licence", "commercial")[1] == ""
    assert run(monkeypatch, capsys, "list", "swav")[1] == ""


def test_tags_are_searched_too(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    out = run(monkeypatch, capsys, "list", "r50.vissl", "--tags")[0].splitlines()[1:]
    expected = [f"{n}.{tag}" for n, spec in MODELS.items() for tag in spec.weights if "r50.vissl" in f"{n}.{tag}"]
    assert [line.split()[0] for line in out] == expected != []
    assert "no model is called 'r50.vissl'" in run(monkeypatch, capsys, "list", "r50.vissl", code=EXIT_USER_ERROR)[1]
    assert run(monkeypatch, capsys, "list", "--max-params", "0")[1] == "no model passes all of these filters"


def test_wrong_words_get_the_nearest(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for words, wanted in (
        (("list", "--licence", "comercial"), "did you mean commercial? choose from"),
        (("list", "--method", "barlow_twins"), "did you mean barlowtwins? choose from"),
        (("info", "moco_r50"), "did you mean mocov2_r50?"),
        (("info", "ResNet-18"), "did you mean simclr_r18_mini?"),
        (("info", "npid_r50"), "did you mean instdisc_r50?"),
        (("list", "npid++"), "did you mean instdisc_r50?"),
    ):
        assert wanted in run(monkeypatch, capsys, *words, code=EXIT_USER_ERROR)[1]
    for other, name in (("mocov2", "moco"), ("NPID", "instdisc")):
        found, expected = (run(monkeypatch, capsys, "list", "--method", word)[0] for word in (other, name))
        assert found == expected != ""


@pytest.mark.parametrize(
    ("columns", "head"),
    [
        (120, "name input dim params top-1 licence download"),
        (78, "name input dim params top-1 licence download"),
        (60, "name params top-1 licence download"),
        (50, "name params top-1 licence"),
        (30, "name licence"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns(columns: int, head: str) -> None:
    """A real terminal, a pseudo one: no line is broken by it, as far as names and licences allow."""
    parent, child = pty.openpty()
    ioctl(child, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"NO_COLOR": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo", "list"], stdout=child, stderr=subprocess.DEVNULL, env=settings
    )
    os.close(child)
    said = written_to(parent)
    assert process.wait(60) == EXIT_OK
    lines = said.decode().splitlines()
    assert " ".join(lines[0].split()) == head
    assert max(map(len, lines)) <= max(columns, 40)
    assert b"\x1b" not in said  # no colours
    assert "-NC- forbids commercial use, unknown permits no use" in " ".join(said.decode().split())
