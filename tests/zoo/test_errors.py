"""One-line reasons from other libraries' exceptions, and the closest known name."""

from __future__ import annotations

import pytest

from zoo.errors import closest_name, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n second"), "second"),
        (MemoryError(), "MemoryError"),
        (ValueError("a\x1b[31mb"), "a [31mb"),
    ],
)
def test_a_reason_is_one_line_and_never_empty(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
    assert reason_of(error, 3) == reason[:3].strip()


def test_a_reason_has_no_addresses() -> None:
    error = OSError("<_io.BytesIO object at 0x7f00aa> of 0x7fffdeadbeef at s3://bucket/key: lost")
    assert reason_of(error) == "... of ... at ... lost"


def test_the_closest_name() -> None:
    assert closest_name("bylo", ["simsiam", "byol"]) == "byol"
    assert closest_name("BYOL_R50", ["cpc_r50", "byol_r50"]) == "byol_r50"
    assert closest_name("byol", ["SimSiam", "BYOL"]) == "BYOL"
    assert closest_name("zzz", ["simsiam", "byol"], cutoff=0.4) is None
