"""A run that an earlier version wrote, with the current names of classes, parameters and buffers."""

from __future__ import annotations

from typing import Any

from ppl_vae.core.config import current
from ppl_vae.pairs.description import describe_pair
from ppl_vae.pairs.pair import Pair
from ppl_vae.pairs.renamed import places, with_new_buffers


def upgraded_config(config: dict[str, Any], pair: Pair) -> dict[str, Any]:
    """Return the settings of a run of `pair` as this version would write them."""
    state = with_new_buffers(pair, config["pair"]["state"], describe_pair(pair)["state"])
    return current(config | {"pair": config["pair"] | {"state": state}})


def upgraded_checkpoint(checkpoint: dict[str, Any], pair: Pair) -> dict[str, Any]:
    """Return a checkpoint of `pair` as this version would write it: the order of its parameters may differ."""
    own, best = pair.state_dict(), checkpoint["best"]
    if own.keys() == checkpoint["model"].keys():
        return checkpoint
    optimizer, order = checkpoint["optimizer"], places(pair, checkpoint["model"])
    moved = {now: optimizer["state"][old] for now, old in enumerate(order) if old in optimizer["state"]}
    return checkpoint | {
        "model": with_new_buffers(pair, checkpoint["model"], own),
        "best": best and best | {"model": with_new_buffers(pair, best["model"], own)},
        "optimizer": optimizer | {"state": optimizer["state"] | moved},
    }
