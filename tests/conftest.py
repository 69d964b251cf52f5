"""Options and fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHIPPED_GOLDENS = Path(__file__).parent / "goldens"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=SHIPPED_GOLDENS,
        metavar="DIR",
        help="folder with outputs of the official codes (default: the small group that ships in tests/goldens)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``byol_group`` and ``simsiam_group``: one test for every group of goldens found in DIR."""
    folder: Path = metafunc.config.getoption("--goldens")
    for method in ("byol", "simsiam"):
        if f"{method}_group" in metafunc.fixturenames:
            groups = sorted(p.with_suffix("") for p in folder.glob(f"{method}_*.json"))
            metafunc.parametrize(f"{method}_group", groups, ids=[g.name for g in groups])


@pytest.fixture
def goldens(request: pytest.FixtureRequest) -> Path:
    return request.config.getoption("--goldens")
