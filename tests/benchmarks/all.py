"""All tables, each written to its section of RESULTS.md as soon as it is measured, and the table of targets above them.

    python tests/benchmarks/all.py                              all but the long ones, with two threads
    python tests/benchmarks/all.py --threads 1                  the same with one thread, which has one core
    python tests/benchmarks/all.py --from conv                  go on from that table
    python tests/benchmarks/all.py --only vae-20 fits-50000     these alone, long or not
    python tests/benchmarks/all.py --summary                    the table of targets anew, from what was measured

Nothing else should be running. A table that fails leaves its section as it was, and the exit status is 1.
"""

import argparse
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from results import RESULTS, entitled, read, section, with_table, write
from tables import TABLES
from targets import HEADER, NOT_FOUND, THREADS, summary
from timing import cores, processor, use_threads

from ppl_vae.training.options import find_device
from ppl_vae.training.run_folder.run import environment

HERE = Path(__file__).parent
NAMES = [table.name for table in TABLES]


def title_of(table, options, threads):
    """Return the title of a table's section."""
    if options.device != "cpu":
        return f"{table.title}, {options.device}"
    return entitled(table.title, threads) if table.threads else table.title


def keep(path, sections=()):
    """Write sections, those given by title in the place of earlier ones, and the table of targets computed from all."""
    head, kept = read(path.read_text(encoding="utf-8") if path.exists() else "# Results of the benchmarks")
    kept |= dict(sections)
    titles = [table.title for table in TABLES]
    path.write_text(write(with_table(head, HEADER, summary(kept)), kept, titles), encoding="utf-8")


def printed_by(words):
    """Run a script, showing what it prints as it does, and return that; None if it failed."""
    with subprocess.Popen([sys.executable, HERE / words[0], *words[1:]], stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines) if process.returncode == 0 else None


def measure(table, options, threads):
    """Return the section of a table, measured now, or None if its script failed."""
    own, words, started = cores(), table.arguments(options.rounds), time.perf_counter()
    asked = f"--only {table.name} --threads {threads}"
    if options.device != "cpu":
        words, asked = [*words, "--device", options.device], f"{asked} --device {options.device}"
    use_threads(threads)
    try:
        printed = printed_by(words)
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, own)
    if printed is None:
        return None
    found = environment(find_device(options.device))
    device = "cpu" if options.device == "cpu" else f"{found['device']}, cpu"
    about = {
        "date": date.today().isoformat(),
        "seconds": f"{time.perf_counter() - started:,.0f}",
        "seed": 0,
        "device": f"{device}: {processor()}, {len(own)} cores",
        "threads": threads,
        **{name: found[name] for name in ("python", "torch", "pyro-ppl", "ppl-vae")},
    }
    command = f"`python tests/benchmarks/all.py {asked}`, by `{' '.join(words)}`"
    return section(command, about, table.notes, printed)


def chosen(options, parser):
    """Return the tables that the options ask for."""
    for name in [*(options.only or ()), *filter(None, [options.start])]:
        if name not in NAMES:
            parser.error(f"expected tables among {', '.join(NAMES)}; got {name}")
    if options.only:
        return [table for table in TABLES if table.name in options.only]
    start = NAMES.index(options.start) if options.start else 0
    on_device = [table for table in TABLES[start:] if options.device == "cpu" or "svi_step.py" in table.command]
    return [table for table in on_device if options.long or not table.long]


def main(argv=None):
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="TABLE", help=", ".join(NAMES))
    parser.add_argument("--from", dest="start", metavar="TABLE", help="go on from this table")
    parser.add_argument("--long", action="store_true", help="the long ones too")
    parser.add_argument("--threads", type=int, nargs="+", default=[min(THREADS, len(cores()))])
    parser.add_argument("--device", default="cpu", help="cuda: the tables of steps, on a GPU")
    parser.add_argument("--rounds", type=int, help="instead of each table's own number, for a try")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to write to")
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    options = parser.parse_args(argv)
    failed = []
    for threads in [] if options.summary else options.threads:
        for table in chosen(options, parser):
            title = title_of(table, options, threads)
            print(f"\n## {title}\n", flush=True)
            body = measure(table, options, threads)
            if body is None:
                failed.append(title)
            else:
                keep(options.results, {title: body})
    keep(options.results)
    reached = summary(read(options.results.read_text(encoding="utf-8"))[1])
    print(f"\n{reached}")
    if NOT_FOUND in reached:
        failed.append("a target's row or column")
    if failed:
        print(f"\nfailed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
