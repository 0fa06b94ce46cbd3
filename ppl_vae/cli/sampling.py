"""Draws from a fitted model, as a picture or as arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae import files, plots
from ppl_vae.context import isolated
from ppl_vae.errors import InputError
from ppl_vae.runs import Run


def write(run: Run, path: Path, size: int, *, mean: bool = False, seed: int = 0) -> None:
    """Draw `size` data from the run's model, and write them to `path`; of a model given labels, class after class.

    Parameters
    ----------
    run : Run
        Whose model is run with no observation.
    path : Path
        ``.png``: x laid out as pictures. ``.npz``: an array (n, …) per site of the model.
    size : int
        How many.
    mean : bool
        Show E[x | z] of each z drawn from the prior, in place of a draw of x.
    seed : int
        Seed of the draws; the process's own random state is left alone.

    Raises
    ------
    InputError
        For another ending, or a picture of data that are no images.
    RunError
        If the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in (".png", ".npz"):
        raise InputError("out", expected="a file ending in .png or .npz", got=repr(str(path)), hint="out=samples.png")
    spec = run.config["data"]["spec"]
    if kind == ".png" and spec["image_shape"] is None:
        raise InputError("out", expected="data with an image shape, for .png", got=spec["name"], hint="out=samples.npz")
    classes, device = spec["num_classes"], run.pair.device
    given = {"c": torch.arange(size, device=device) % classes} if classes and run.pair.takes("c") else {}
    with isolated(seed, device=device):
        sites = run.pair.generate(size, **given)
        if mean:
            latents = {name: value for name, value in sites.items() if name != "x"}
            means = run.pair.decode(latents, **given)
            sites = latents | {name: value for name, value in means.items() if name not in latents}
    arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in (given | sites).items()}
    buffer = io.BytesIO()
    if kind == ".npz":
        np.savez_compressed(buffer, **arrays)
    else:
        limits = None if spec["support"] == "real" else (0.0, 1.0)
        plots.image_grid(arrays["x"], tuple(spec["image_shape"]), limits=limits).savefig(buffer, format="png", dpi=160)
    files.write_bytes(path, buffer.getvalue())
