"""Modalities of a datum: named tensors x_m, any of which may be missing, by a mask called ``<name>_present``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.core.checks import check_mapping, integer_at_least, one_of
from ppl_vae.core.errors import InputError, shown, unknown_name
from ppl_vae.core.shapes import as_shape
from ppl_vae.nn import likelihoods
from ppl_vae.nn.heads import LikelihoodHead
from ppl_vae.nn.likelihoods import Likelihood
from ppl_vae.nn.plate import batch_size, data_plate

Shape = int | Sequence[int]

#: Names that other sites and arguments of the programs have.
TAKEN = ("z", "size", "data", "particles")


def mask_name(name: str) -> str:
    """Return the name of a modality's mask."""
    return f"{name}_present"


def only(batch: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Return those modalities of these names that the batch has, and their masks."""
    wanted = {wanted for name in names for wanted in (name, mask_name(name))}
    return {name: value for name, value in batch.items() if name in wanted}


def check_there(names: Iterable[str], batch: Mapping[str, Tensor]) -> None:
    """Raise `InputError` for a name that the batch lacks, with the nearest of its modalities suggested."""
    for name in names:
        if name not in batch:
            raise unknown_name("modality", name, [other for other in batch if not other.endswith(mask_name(""))])


class Modalities(nn.Module):
    """Names and shapes of modalities, and the checks of their values.

    Parameters
    ----------
    shapes : mapping of str to int or tuple of int
        Shape of one datum of each modality, by name.
    masked : bool
        Whether a datum may lack some, by a mask.
    """

    def __init__(self, shapes: Mapping[str, Shape], *, masked: bool = True) -> None:
        super().__init__()
        if not isinstance(shapes, Mapping) or not shapes:
            raise InputError("modalities", expected="a mapping of names to shapes", got=shown(shapes, 60))
        for name in shapes:
            usable = isinstance(name, str) and name.isidentifier() and not name.endswith(mask_name(""))
            if not usable or name in TAKEN or hasattr(nn.ModuleDict, name):
                expected = f"a name for an argument that is free, unlike {', '.join(TAKEN)}"
                hint = repr(f"x_{name}") if isinstance(name, str) else ""
                raise InputError("modality", expected=expected, got=shown(name), hint=hint)
        self.shapes = {name: as_shape(f"shape of {name}", shape) for name, shape in shapes.items()}
        self.masked = masked
        self.wanted = "at least one modality" if masked else "x or a factor"

    @property
    def argument_names(self) -> frozenset[str]:
        """Names of all arguments of a program over these modalities."""
        return frozenset(self.shapes) | {mask_name(name) for name in self.shapes if self.masked}

    def of_each(self, what: str, given: Any) -> Mapping[str, Any]:
        """Return what is `given` for modalities by name, nothing for None, or raise `InputError` for another name."""
        return of_each("modality", check_mapping(what, given or {}, "a mapping of modalities"), self.shapes)

    def given(self, arguments: Mapping[str, Tensor | None]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the present modalities and masks, each by the name of the modality.

        Masked values are replaced by zero; the mask of an absent modality is omitted.

        Raises
        ------
        InputError
            For an unknown name, or a mask that is not boolean of the batch's length.
        """
        tensors = {name: value for name, value in arguments.items() if value is not None}
        for name in tensors:
            if name not in self.argument_names:
                raise unknown_name("modality", name, self.shapes)
        values = {name: tensors[name] for name in self.shapes if name in tensors}
        masks = {name: tensors[mask_name(name)] for name in values if mask_name(name) in tensors}
        for name, mask in masks.items():
            rows = batch_size(name, values[name], self.shapes[name])
            if mask.dtype != torch.bool or mask.shape != (rows,):
                got = f"{mask.dtype}, {tuple(mask.shape)}"
                raise InputError(mask_name(name), expected=f"a boolean mask of shape ({rows},)", got=got)
            # A network's output for missing values could be infinite, and so could gradients.
            values[name] = values[name].where(mask.view(-1, *[1] * len(self.shapes[name])), 0)
        return values, masks

    def some(self, arguments: Mapping[str, Tensor | None]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return modalities and masks as `given` does, or raise `InputError` where a guide was given none."""
        values, masks = self.given(arguments)
        if not values:
            raise InputError("guide", expected=self.wanted, got="none", hint=", ".join(self.shapes))
        return values, masks

    def plate(self, values: Mapping[str, Tensor], size: int | None = None) -> Any:
        """Return the plate of the data, of as many rows as all modalities and `size` must have where given."""
        rows = {name: batch_size(name, value, self.shapes[name]) for name, value in values.items()}
        if len(set(rows.values())) > 1:
            got = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise InputError("modalities", expected="equally many rows", got=got)
        if not rows and size is None:
            raise InputError("model", expected=f"one of {', '.join(self.shapes)} to score, or size", got="neither")
        count = next(iter(rows.values())) if rows else size
        if size is not None and size != count:
            raise InputError("size", expected=f"{count}, the rows of the modalities", got=shown(size))
        return data_plate(count)

    def check_values(self, **batch: Tensor) -> None:
        """Raise `InputError` for a datum of which every modality is missing."""
        values, masks = self.given(only(batch, self.shapes))
        if not values or len(masks) < len(values):
            return
        none = ~torch.stack(list(masks.values())).any(0)
        if bool(none.any()):
            row = int(none.nonzero()[0])
            raise InputError("modalities", expected="at least one of each datum", got=f"none in row {row}")

    def quantity(self, **batch: Tensor) -> str | None:
        """Return the name of the log likelihood of a batch, as text; None where nothing can be missing."""
        if not self.masked:
            return None
        values, masks = self.given(only(batch, self.shapes))
        return f"log p({', '.join(values)}{', those that are there' * bool(masks)})"


def of_each(what: str, given: Any, names: Collection[str]) -> Mapping[str, Any]:
    """Return what is `given` for each of `names`: a mapping of them as it is, anything else for all of them.

    Raises
    ------
    InputError
        If a mapping has another name; it is called `what`.
    """
    found = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
    for name in found:
        one_of(what, name, names)
    return found


def likelihood_heads(
    modalities: Modalities,
    latent_dim: int | Mapping[str, int],
    likelihood: Mapping[str, Likelihood | str] | Likelihood | str,
    *,
    networks: Mapping[str, nn.Module] | None = None,
    hidden: Sequence[int] = (200, 200),
    activation: str = "tanh",
) -> nn.ModuleDict:
    """Return p(x_m|z) of each modality, a `LikelihoodHead`.

    Parameters
    ----------
    modalities : Modalities
        Names and shapes.
    latent_dim : int or mapping of str to int
        Size of the latent that a head takes: one for all, or of each by name.
    likelihood : Likelihood or str, or mapping of these
        One of a kind for all, each with parameters of its own, or one for each by name.
    networks : mapping of str to Module, optional
        Instead of the default ones, each an `MLP`.
    hidden, activation
        Of the default networks.

    Raises
    ------
    InputError
        If a name is unknown, or a likelihood missing.
    """
    own, given = modalities.of_each("networks", networks), of_each("modality", likelihood, modalities.shapes)
    chosen: Any = likelihoods.for_each(modalities.shapes, given)
    heads = nn.ModuleDict()
    for name, shape in modalities.shapes.items():
        size = latent_dim[name] if isinstance(latent_dim, Mapping) else latent_dim
        heads[name] = LikelihoodHead(
            shape, size, chosen[name], network=own.get(name), hidden=hidden, activation=activation
        )
    return heads


def masked(distribution: Any, mask: Tensor | None) -> Any:
    """Return `distribution` where `mask` (B,) is True, or everywhere without one."""
    return distribution if mask is None else distribution.mask(mask)


def factor_latents(factors: Mapping[str, Shape], latent_dims: Mapping[str, int]) -> dict[str, int]:
    """Return how large the latent of each factor is, and that of the rest where there is one, by site, ``z_<name>``.

    Raises
    ------
    InputError
        If there are no factors, one is called x or rest, or has no latent, or a size is below one.
    """
    if not isinstance(factors, Mapping) or not factors or {"x", "rest"} & set(factors):
        raise InputError("factors", expected="names, other than x and rest, and shapes", got=shown(factors, 60))
    for name in check_mapping("latent_dims", latent_dims, "a mapping of factors to sizes", '{"pose": 4, "rest": 8}'):
        one_of("factor", name, (*factors, "rest"))
    for name in factors:
        if name not in latent_dims:
            raise InputError(f"latent_dims of {name}", expected="a size", got="none")
    names = [*factors, *(["rest"] if "rest" in latent_dims else [])]
    return {f"z_{name}": integer_at_least(f"latent_dims of {name}", latent_dims[name], 1) for name in names}
