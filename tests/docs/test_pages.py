"""Every command of README and docs runs, or says why it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_blocks import ROOT, BlockError, check_options, parse, run_page
from page_files import prepare

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [page for page in PAGES if page.exists()]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_marked_or_run(page: Path) -> None:
    for block in parse(page):
        check_options(block)


def runs(page: Path, *, slow: bool) -> bool:
    try:
        blocks = parse(page)
    except BlockError:  # told by the test above, not by a failed collection
        return False
    return any(block.not_run is None and block.slow == slow for block in blocks)


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page, slow=False)], ids=name)
def test_page(page: Path, tmp_path: Path) -> None:
    blocks = parse(page)
    prepare([block for block in blocks if not block.slow], tmp_path)
    run_page(blocks, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page, slow=True)], ids=name)
def test_page_with_its_slow_blocks(page: Path, tmp_path: Path) -> None:
    blocks = parse(page)
    prepare(blocks, tmp_path)
    run_page(blocks, tmp_path, slow=True)
