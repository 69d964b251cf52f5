"""Number the classes of labels of any kind, and refuse labels that are not one class each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.datasets.label_forms import several_labels
from zoo.errors import UserError

_MAX_CLASSES = 1_000_000  # identifiers mistaken for labels would need a list of their size


def number_labels(values: Sequence[object], name: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return labels as numbers, and the class names in the order of these numbers."""
    if missing := sum(v is None or v != v or (isinstance(v, str) and not v.strip()) for v in values):
        raise UserError(f"{name}: {missing} rows have no label: remove them or the labels")
    if (several := several_labels(values)) is not None:
        raise UserError(
            f"{name}: the label {str(several)[:80]} is a list: images with several labels are scored by `zoo evaluate "
            "transfer --data voc2007` only; give a column with one label each"
        )
    if (fraction := next((v for v in values if isinstance(v, float) and not v.is_integer()), None)) is not None:
        raise UserError(f"{name}: the label {fraction} is a fraction: give whole numbers from 0 or names of classes")
    numbers = [v for v in values if isinstance(v, int) and v >= 0]
    if len(numbers) == len(values):
        names = number_names(max(numbers, default=-1) + 1, name)  # first: it bounds the numbers
        return np.array(numbers, np.int64), names
    classes = sorted({str(v) for v in values})
    number = {c: n for n, c in enumerate(classes)}
    return np.array([number[str(v)] for v in values], np.int64), classes


def number_names(count: int, name: str) -> list[str]:
    """Return names for classes that have none."""
    if count > _MAX_CLASSES:
        raise UserError(f"{name}: a label of {count - 1}: number the classes from 0, without large gaps")
    return [str(n) for n in range(count)]
