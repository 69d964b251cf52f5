"""Notice labels that hold several classes: taken for one name each, they would give a wrong score in silence."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence

import numpy as np

_MAX_TEXT = 10_000  # characters of a label that is parsed
_SEPARATORS = (",", "|", ";")
_NUMBERS = re.compile(r"\d+(?:[\s,|;]+\d+)*")  # 3, and 0 2
_PRINTED = re.compile(r"-?\d+\.?|True|False")  # as numpy prints an element


def several_labels(values: Sequence[object]) -> object | None:
    """Return the first value that holds several labels; ``None`` where each is one.

    Several are: a list, a multi-hot row, or the text of one in JSON, in Python or as numpy prints it; numbers with
    separators between them, where all labels are numbers; names with separators, each of which is a label of its own
    elsewhere (``cat,dog`` beside ``cat`` and ``dog``).
    """
    for value in values:
        if isinstance(value, list | tuple | set | dict | np.ndarray):
            return value
    texts = dict.fromkeys(value.strip() for value in values if isinstance(value, str))
    are_numbers = all(_NUMBERS.fullmatch(text) for text in texts)
    for text in texts:
        if _is_list(text) or (are_numbers and not text.isdigit()) or _joins_names(text, texts):
            return text
    return None


def _joins_names(text: str, known: dict[str, None]) -> bool:
    for separator in _SEPARATORS:
        parts = [part.strip() for part in text.split(separator)]
        if len(parts) > 1 and all(part in known for part in parts):
            return True
    return False


def _is_list(text: str) -> bool:
    """True for ``[0, 2]``, ``['cat', 'dog']``, ``(0, 2)``, ``{"a": 1}`` and numpy's ``[0 1 0]``."""
    if text[:1] + text[-1:] not in ("[]", "()", "{}") or len(text) > _MAX_TEXT:
        return False
    if text[0] == "[" and all(_PRINTED.fullmatch(part) for part in text[1:-1].split()):
        return True
    for parse in (json.loads, ast.literal_eval):
        try:
            return isinstance(parse(text), list | tuple | set | dict)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return False
