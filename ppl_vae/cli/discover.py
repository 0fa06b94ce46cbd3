"""``list`` and ``demo``: what there is, and what it looks like."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ppl_vae.cli import parse
from ppl_vae.cli.app import again, app, interruptible, say
from ppl_vae.core.lazy import docstring


@app.command("list", epilog="Example:  ppl-vae list")
def list_command() -> None:
    """List pairs, data sets, likelihoods and objectives, with one line on each."""
    from ppl_vae import data, zoo
    from ppl_vae.nn import likelihoods

    kinds = {name: f"{line} [{', '.join(data.binarizations(name))}]" for name, line in data.names().items()}
    objectives = {name: docstring(home).partition("\n")[0] for name, home in parse.objectives().items()}
    _section("Pairs", "fit PAIR", zoo.names())
    _section(
        "Data sets",
        "--data NAME, or the path of a .npz, .npy or .csv; in brackets --binarization, its default first",
        kinds,
    )
    _section("Likelihoods", "--likelihood", likelihoods.NAMES)
    _section("Objectives", "--objective", objectives)


def _section(title: str, use: str, lines: dict[str, str]) -> None:
    say(f"{typer.style(title, bold=True) if sys.stdout.isatty() else title} ({use})", styled=True)
    width = max(map(len, lines))
    for name, line in lines.items():
        say(f"  {name:{width}}  {line}")
    say()


@app.command("demo", epilog="Example:  ppl-vae demo --out runs/demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path("runs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few seconds instead of minutes; the numbers mean little.")
    ] = False,
) -> None:
    """Fit PPCA and a VAE to handwritten digits, evaluate both, and write a report with figures.

    PPCA is held against its closed form, the VAE's log p(x) is estimated with an error bar. It takes under three
    minutes on two cores, and downloads nothing.
    """
    with interruptible(lambda: f"what was fitted is kept in {out}; go on with: {again()}"):
        from ppl_vae.cli.demo import demo

        demo(out, quick=quick, say=say)
