"""A pair of programs, the record of one run of it, and the contract that it is held to."""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.pairs.pair import Pair, as_pair
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = ["Pair", "as_pair"]
