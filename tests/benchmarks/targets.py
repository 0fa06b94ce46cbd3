"""What the benchmarks are to reach, and the table at the top of RESULTS.md: each target beside what was measured."""

import re
from dataclasses import dataclass

from results import cells, entitled, threads_of

HEADER = "| work | against | target, at most |"
#: The number of threads that targets are of.
THREADS = 2
#: What is shown where the section is there, and the row or column is not.
NOT_FOUND = "not found"

FUSED, EAGER, PRODUCTS = "ours, inductor", "against hand-written, eager", "against matrix products alone"
FLOORS = ("against matrix products, oneDNN", "against matrix products, torch")
BY_HAND = "hand-written eager (default Adam)"


@dataclass(frozen=True)
class Target:
    """One row.

    Attributes
    ----------
    work, against : str
        What is compared.
    at_most : str
        The target; its decimals are those to which the measured value is rounded.
    title : str
        Of the section that it is measured in, without the number of threads.
    row, column : str or None, str or tuple of str
        Where it stands there: the largest of all rows for None, the first column that there is of several.
    earlier : str
        The target that this one replaced.
    """

    work: str
    against: str
    at_most: str
    title: str
    row: str | None
    column: str | tuple[str, ...]
    earlier: str = ""


def _vae(size, against, at_most, column, earlier=""):
    return Target(f"VAE, batch {size}", against, at_most, f"VAE, batch {size}", FUSED, f"against {column}", earlier)


def _fit(steps, size, at_most):
    row, title = f"{steps:,} steps, batch {size}", f"Whole fits of {steps:,} steps"
    work = f"whole fit of {steps:,} steps by the default path, cold cache, batch {size}"
    return Target(work, "a loop with fused Adam", at_most, title, row, "cold / loop")


def _fresh(size, at_most):
    title = f"VAE, batch {size}, binarised afresh at each step"
    return Target(title, f"{BY_HAND}, binarised likewise", at_most, title, FUSED, EAGER)


LOG_P, M2 = "log p(x), K = 5,000", "M2, y summed out, batch 200"

TARGETS = (
    _vae(20, BY_HAND, "0.42", "hand-written, eager", earlier="0.70"),
    _vae(20, "stock Pyro", "0.30", "stock Pyro"),
    _vae(20, "NumPyro's jitted loop", "0.85", "NumPyro, jitted loop"),
    _vae(20, "matrix products alone", "1.50", "matrix products alone"),
    _vae(128, BY_HAND, "0.48", "hand-written, eager", earlier="0.85"),
    _vae(128, "hand-written `torch.compile` (default Adam)", "1.00", "hand-written, torch.compile"),
    _vae(128, "NumPyro's jitted loop", "0.85", "NumPyro, jitted loop", earlier="1.05"),
    _vae(128, "matrix products alone", "1.25", "matrix products alone"),
    _fresh(20, "0.45"),
    _fresh(128, "0.48"),
    Target("importance-weighted, K = 50, batch 20", "matrix products alone", "1.25", "VAE, batch 20, K = 50", FUSED,
           PRODUCTS),
    _fit(2000, 20, "1.00"),
    _fit(2000, 128, "1.00"),
    _fit(10000, 20, "0.65"),
    _fit(10000, 128, "0.65"),
    Target("convolutional VAE 28x28, batch 128", "hand-written channels-last (default Adam)", "0.90",
           "Convolutional VAE, batch 128", FUSED, "against hand-written, channels-last"),
    Target("ladder of five layers, batch 256", BY_HAND, "0.85", "Ladder, batch 256", FUSED, EAGER),
    Target(M2, "matrix products alone", "1.30", M2, FUSED, PRODUCTS),
    Target(M2, "stock Pyro's `TraceEnum_ELBO`", "0.70", M2, FUSED, "against stock Pyro"),
    Target("PPCA on digits, batch 128", "stock Pyro", "0.15", "PPCA, batch 128", FUSED, "against stock Pyro"),
    Target(LOG_P, "the decoder's products, by the faster of oneDNN and torch", "1.25", LOG_P, FUSED, FLOORS, "1.50"),
    Target("first log p(x) of 180 digits, K up to 5,000", "seconds", "2.00", "First log p(x)", None,
           "s of the estimate"),
    Target("AIS, T = 1,000, 100 data", "the same chain in hand-written PyTorch", "0.60", "AIS", "ours, inductor",
           "against hand-written"),
    Target("`ppl-vae list`", "seconds of CPU", "0.50", "Start", "`ppl-vae list`", "s"),
    Target("proofs of recordings, fits of 200 steps or more", "% of the fit's time", "1.0", "Proofs of recordings",
           None, "share of the fit's time"),
    Target("moves between files in an eager step", "101 before", "50", "Moves between files", "all", "moves"),
    Target("a step after the move into rooms", "the same step before", "1.00", "One step by two checkouts", None,
           "after / before, median [quartiles]"),
)  # fmt: skip


def summary(sections):
    """Return the table of all targets, computed from the sections, with a column for each other number of threads."""
    others = sorted({threads_of(title)[1] for title in sections} - {0, THREADS})
    names = ["work", "against", "target, at most", "measured", "", *(entitled("measured", n) for n in others)]
    lines = [names, ["---"] * len(names)]
    for target in TARGETS:
        value, shown = measured(target, sections, THREADS)
        at_most = f"{target.at_most} (before: {target.earlier})" if target.earlier else target.at_most
        reached = "" if value is None else "reached" if value <= float(target.at_most) else "missed"
        beside = [measured(target, sections, n, always=False)[1] for n in others]
        lines.append([target.work, target.against, at_most, shown, reached, *beside])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(target, sections, threads, always=True):
    """Return the value of a target, and how it is shown; None and words where there is none.

    With `always`, a section that no number of threads concerns counts too.
    """
    title = entitled(target.title, threads)
    body = sections.get(title, sections.get(target.title) if always else None)
    if body is None:
        return None, "not measured" if always else ""
    columns = [target.column] if isinstance(target.column, str) else target.column
    found = next(filter(None, (cells(body, target.row, column) for column in columns)), None)
    if found is None:
        return None, f"{NOT_FOUND}: {target.row}, {target.column}"
    decimals = len(target.at_most.partition(".")[2])
    values = sorted(round(float(re.match(r"[\d.]+", cell.replace(",", "")).group()), decimals) for cell in found)
    shown = dict.fromkeys(f"{value:.{decimals}f}" for value in (values[0], values[-1]))
    return values[-1], " to ".join(shown)
