"""A builder of pairs of two classes, whose options are those of their constructors."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ppl_vae.core.lazy import docstring

if TYPE_CHECKING:
    from ppl_vae.pairs.pair import Pair

_GIVEN_BY_DATA = ("x_dim", "x_shape")


def family(model: str, guide: str) -> Callable[..., Pair]:
    """Return ``build(spec, *, latent_dim=8, …) -> Pair`` for the two classes of these names.

    An argument ``x_dim`` or ``x_shape`` of a constructor is that of the data. All others are options of the builder;
    each class gets those that it takes, and an option of both has one value.

    Parameters
    ----------
    model, guide : str
        ``"module:Class"``, as in ``"ppl_vae.models.vae:VAE"``.
    """
    return _Family(model, guide)


class _Family:
    """Builder that imports its classes when its options are asked for, or a pair is."""

    def __init__(self, model: str, guide: str) -> None:
        self._names = (model, guide)
        self.__doc__ = docstring(model)

    @functools.cached_property
    def _classes(self) -> tuple[type, ...]:
        return tuple(map(pkgutil.resolve_name, self._names))

    @functools.cached_property
    def _options(self) -> dict[str, Any]:
        taken = [inspect.signature(cls).parameters for cls in reversed(self._classes)]
        options = {name: p.default for each in taken for name, p in each.items() if name not in _GIVEN_BY_DATA}
        return options | {"latent_dim": 8}

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter
        options = (kind(name, kind.KEYWORD_ONLY, default=default) for name, default in self._options.items())
        return inspect.Signature([kind("spec", kind.POSITIONAL_OR_KEYWORD), *options])

    def __call__(self, spec: Any, **given: Any) -> Pair:
        from ppl_vae.pairs.pair import Pair

        values = self._options | given | {"x_dim": spec.x_dim, "x_shape": spec.x_shape}
        model, guide = (
            cls(**{name: values[name] for name in inspect.signature(cls).parameters}) for cls in self._classes
        )
        return Pair(model, guide)
