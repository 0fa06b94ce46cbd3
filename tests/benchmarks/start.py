"""Seconds of a core that a command takes before it has done anything: imports, and the first epoch of a fit.

    OMP_NUM_THREADS=1 python tests/benchmarks/start.py
    OMP_NUM_THREADS=1 python tests/benchmarks/start.py BEFORE/bin/python AFTER/bin/python

Each argument is a Python in which a checkout of the library is installed; by default this one. A command is a process
of its own, timed from its start to its end, user and system time together; a round runs each command by each Python.
The fits are of digits, for one epoch; with --demo the whole demonstration is timed once a round, too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

COMMANDS = ("list", "demo", "fit", "evaluate", "sample", "report")
FLOORS = {"`import torch`": "import torch", "`import pyro`": "import pyro", "`import ppl_vae`": "import ppl_vae"}
OF_A_RUN = ("evaluate RUN", "sample RUN --out RUN/samples.png", "report RUN")


def rows(demo):
    """Return the rows of the table: what is timed, and the words after ``python``; RUN is a fitted run, NEW a path."""
    found = {name: ("-c", code) for name, code in FLOORS.items()}
    lines = ["list", "--help", *(f"{command} --help" for command in COMMANDS)]
    lines += [f"fit {pair} --epochs 1 --run-dir NEW" for pair in ("vae", "vae --compile off", "ppca")]
    lines += [*OF_A_RUN, "demo --quick --out NEW", *(["demo --out NEW"] if demo else [])]
    return found | {f"`ppl-vae {line}`": ("-m", "ppl_vae", *line.split()) for line in lines}


def seconds(python, words, folder):
    """Return the seconds of a core that one process takes, its children's included."""
    places = {"RUN": f"{folder}/run", "NEW": tempfile.mktemp(dir=folder)}
    for place, path in places.items():
        words = [word.replace(place, path) for word in words]
    process = subprocess.Popen([python, *words], stdout=subprocess.DEVNULL, cwd=folder)  # not in a checkout: -m sees it
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{python} {' '.join(words)} failed")
    return used.ru_utime + used.ru_stime


def main():
    """Print the table: medians over rounds, and with two Pythons the median of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", default=[sys.executable])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--demo", action="store_true", help="the whole demonstration too: minutes a round")
    options = parser.parse_args()
    timed = {name: [[] for _ in options.pythons] for name in rows(options.demo)}
    with tempfile.TemporaryDirectory() as folder:
        seconds(options.pythons[-1], ("-m", "ppl_vae", "fit", "vae", "--epochs", "1", "--run-dir", "RUN"), folder)
        for _ in range(options.rounds):
            for name, words in rows(options.demo).items():
                for python, found in zip(options.pythons, timed[name], strict=True):
                    found.append(seconds(python, words, folder))
    two = len(options.pythons) == 2
    print(f"| command | {'before, s | after, s | after / before' if two else 's'} |")
    print("| --- " * (4 if two else 2) + "|")
    for name, found in timed.items():
        cells = [name, *(f"{statistics.median(values):.2f}" for values in found)]
        if two:
            cells.append(f"{statistics.median(b / a for a, b in zip(*found, strict=True)):.2f}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
