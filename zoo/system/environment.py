"""Read numbers from environment variables. A value that is no number raises a UserError."""

from __future__ import annotations

import math
import os

from zoo.errors import UserError

_OF_THE_HUB = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")


def whole_number(name: str, default: int | None, *, least: int = 0) -> int:
    """Return the whole number in a variable, or ``default`` if the variable is not set or empty.

    Raises:
        UserError: the value is no whole number or below ``least``, or it is missing without a default.
    """
    text = os.environ.get(name, "").strip()
    if not text and default is not None:
        return default
    # int() also takes underscores and the digits of other scripts.
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) < least:
        raise UserError(
            f"the environment variable {name} is {text[:60]!r}: set a whole number from {least}, or unset it"
        )
    return int(text)


def seconds(name: str, default: float) -> float:
    """Return the seconds in a variable, or ``default`` if the variable is not set or empty.

    Raises:
        UserError: the value is no number, not finite, or not above 0.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"the environment variable {name} is {text[:60]!r}: set a number of seconds, or unset it")
    return value


def require_readable_by_the_hub() -> None:
    """Check the variables that huggingface_hub parses when it is imported. timm imports huggingface_hub.

    Raises:
        UserError: a variable is no whole number. The import would raise a ValueError.
    """
    for name in _OF_THE_HUB:
        try:
            int(os.environ.get(name, "0"))
        except ValueError:
            text = os.environ[name]
            raise UserError(
                f"the environment variable {name} is {text[:60]!r}: set a whole number of seconds, or unset it"
            ) from None
