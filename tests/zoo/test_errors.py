"""What is said of another library's failure."""

from __future__ import annotations

import pytest

from zoo.errors import reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("first\nsecond"), "first"), (ValueError("\n second"), "second"), (MemoryError(), "MemoryError")],
)
def test_a_reason_is_one_line_and_never_empty(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
    assert reason_of(error, 3) == reason[:3]
