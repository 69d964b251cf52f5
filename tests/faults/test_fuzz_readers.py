"""``fuzz_readers.py``, a minute for each reader: slow, and where the corpus of ``test_hostile_files.py`` comes from."""

from __future__ import annotations

import pytest
from faults.fuzz_readers import READERS, fuzz


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_no_mutation_is_more_than_one_line(reader: str) -> None:
    assert not fuzz(reader, 60)
