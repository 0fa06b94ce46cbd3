"""Types shared by every floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

#: Argument name -> tensor whose leading dimension is data; ``model(**batch)`` and ``guide(**batch)``.
Batch = Mapping[str, Tensor]

#: A Pyro program: a `PyroModule`, or any callable that samples sites.
Program = Callable[..., Any]
