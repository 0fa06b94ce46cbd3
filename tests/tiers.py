"""The two tiers of the tests: which cases of a long list run in the fast one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def fast_in(few: Collection[Any], many: Iterable[Any]) -> list[Any]:
    """Return `many` as parameters of a test, marked as slow but for those of `few`."""
    return [value if value in few else pytest.param(value, marks=pytest.mark.slow) for value in many]
