"""Draws from a fitted model, as a picture or as arrays."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.core import files
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.process import isolated
from ppl_vae.data import Spec
from ppl_vae.training.run_folder.run import Run


def write(run: Run, path: Path, size: int, *, mean: bool = False, labels: Sequence[str] = (), seed: int = 0) -> None:
    """Draw `size` data from the run's model, and write them to `path`.

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
    labels : sequence of str
        What a model of x given a label is given, in turn: ``"3"``, or a range ``"0-9"``; all labels by default.
    seed : int
        Seed of the draws; the process's own random state is left alone.

    Raises
    ------
    InputError
        For another ending, a picture of data that are no images, labels that there are not or that the model does not
        take, and a model that conditions on something else.
    RunError
        If the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in (".png", ".npz"):
        raise InputError("out", expected="a file ending in .png or .npz", got=shown(str(path)), hint="out=samples.png")
    spec = Spec.from_json(run.config["data"]["spec"])
    if kind == ".png" and spec.image_shape is None:
        raise InputError("out", expected="data with an image shape, for .png", got=spec.name, hint="out=samples.npz")
    given, device = _conditions(run, size, labels), run.pair.device
    with isolated(seed, device=device):
        sites = run.pair.generate(size, **given)
        if mean:
            latents = {name: value for name, value in sites.items() if name != "x"}
            means = run.pair.decode(latents, **given)
            sites = latents | {name: value for name, value in means.items() if name not in latents}
    if "x" in sites and tuple(sites["x"].shape[1:]) == spec.x_shape:
        sites["x"] = spec.restore(sites["x"])  # in the units of the data as they were given
    arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in (given | sites).items()}
    buffer = io.BytesIO()
    if kind == ".npz":
        np.savez_compressed(buffer, **arrays)
    else:
        limits = (0.0, 1.0) if spec.support in ("unit", "binary") else None
        plots.image_grid(arrays["x"], spec.image_shape or (), limits=limits).savefig(buffer, format="png", dpi=160)
    files.write_bytes(path, buffer.getvalue())


def _conditions(run: Run, size: int, labels: Sequence[str]) -> dict[str, Tensor]:
    """Return what the model conditions on for `size` data: labels in turn, or nothing."""
    model, classes = run.pair.model, run.config["data"]["spec"]["num_classes"]
    if not run.pair.takes("c"):
        if labels:
            got = f"{type(model).__name__}, which takes none"
            raise InputError("--label", expected="a model that is given labels", got=got, hint="a run of cvae")
        return {}
    shape = getattr(getattr(model, "condition", None), "c_shape", ())  # of vectors or images, in the place of labels
    if shape or not classes:
        kind = f"one given c of shape {shape}" if shape else "one given c"
        hint = "run.pair.generate(c=…) in Python"
        raise InputError("sample", expected="a model of x alone, or given labels", got=kind, hint=hint)
    chosen = [label for item in labels for label in _labels(item, classes)] or range(classes)
    rows = itertools.islice(itertools.cycle(chosen), size)
    return {"c": torch.tensor(list(rows), device=run.pair.device)}


def _labels(text: str, classes: int) -> range:
    """Return ``"3"`` and ``"0-9"`` as ranges of labels."""
    first, dash, last = text.partition("-")
    if first.isdecimal() and (last.isdecimal() or not dash):
        found = range(int(first), int(last or first) + 1)
        if found and found.stop <= classes:
            return found
    expected = f"labels 0 to {classes - 1}, one or a range"
    raise InputError("--label", expected=expected, got=shown(text), hint=f"--label 0, or --label 0-{classes - 1}")
