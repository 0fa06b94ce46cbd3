"""A builder of pairs of two classes, whose options are those of their constructors."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from ppl_vae.pairs.pair import Pair


def family(model: str, guide: str) -> Callable[..., Pair]:
    """Return ``build(spec, *, latent_dim=8, …) -> Pair`` for the two classes of these names.

    An argument ``x_dim`` or ``x_shape`` of a constructor is that of the data. All others are options of the builder;
    each class gets those that it takes, and an option of both has one value.

    Parameters
    ----------
    model, guide : str
        ``"module:Class"``, as in ``"ppl_vae.models.vae:VAE"``.
    """
    classes = tuple(map(pkgutil.resolve_name, (model, guide)))
    taken = [inspect.signature(cls).parameters for cls in classes]
    given_by_data = ("x_dim", "x_shape")
    options = {name: p.default for each in reversed(taken) for name, p in each.items() if name not in given_by_data}
    options["latent_dim"] = 8

    def build(spec: Any, **given: Any) -> Pair:
        values = options | given | {"x_dim": spec.x_dim, "x_shape": spec.x_shape}
        return Pair(*(cls(**{name: values[name] for name in each}) for cls, each in zip(classes, taken, strict=True)))

    kind = inspect.Parameter
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            kind("spec", kind.POSITIONAL_OR_KEYWORD),
            *(kind(name, kind.KEYWORD_ONLY, default=default) for name, default in options.items()),
        ]
    )
    build.__doc__ = inspect.getdoc(classes[0])
    return build
