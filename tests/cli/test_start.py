"""What a command imports before it answers: `list`, `--help` and a misspelled name do not wait for torch."""

import inspect
import json
import subprocess
import sys

import pytest
import typer

from ppl_vae import objectives
from ppl_vae.cli import parse
from ppl_vae.cli.app import app
from ppl_vae.core.lazy import docstring

COMMANDS = list(typer.main.get_command(app).commands)

#: What takes a second to import, or the better part of one.
SLOW = {"arviz", "matplotlib", "numpy", "pandas", "pyro", "scipy", "sklearn", "sympy", "torch"}


def answers(*lines):
    """For each command line, its exit code and what a process that runs all of them has then imported of `SLOW`."""
    code = f"""
import json, sys
from ppl_vae.cli import run
for line in {lines}:
    print(json.dumps([run(line.split()), sorted({SLOW} & sys.modules.keys())]), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]


def test_list_does_not_wait_for_torch():
    assert answers("list", "--version") == [[0, []]] * 2


@pytest.mark.slow
def test_help_does_not_wait_for_torch():
    lines = ("--help", *(f"{command} --help" for command in COMMANDS))
    assert answers(*lines) == [[0, []]] * len(lines)


def test_a_misspelled_name_is_said_without_torch():
    lines = (
        *("lst", "fit vea", "fit vae --epochs many", "fit vae --objective elbow", "fit vae --hidden 8,x"),
        "fit vae --data-option rows",
    )
    assert answers(*lines) == [[2, []]] * len(lines)


def test_the_objectives_that_are_listed_are_those_there_are():
    classes = {name.lower(): each for name, each in vars_of(objectives).items() if isinstance(each, type)}
    assert list(parse.objectives()) == list(classes)
    for name, home in parse.objectives().items():
        assert docstring(home) == inspect.getdoc(classes[name])


def vars_of(room):
    return {name: getattr(room, name) for name in room.__all__}
