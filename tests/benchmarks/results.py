"""The sections of RESULTS.md: read, replaced one by one as they are measured, and looked up.

A section is a heading, ``## title``, and what follows it. What stands before the first is the head.
"""

import re
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def read(text):
    """Return the head of a text, and its sections by title, in their order."""
    head, *parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    titled = (part.partition("\n") for part in parts)
    return head.strip(), {heading.removeprefix("## ").strip(): body.strip() for heading, _, body in titled}


def entitled(title, threads):
    """Return the title of what was measured with so many threads."""
    return f"{title}, {threads} thread{'s' * (threads > 1)}"


def threads_of(title):
    """Return a title without its number of threads, and that number, 0 if it has none."""
    found = re.fullmatch(r"(.*), (\d+) threads?", title)
    return (found[1], int(found[2])) if found else (title, 0)


def write(head, sections, titles):
    """Return the text of a head and sections, in the order of `titles`, which have no threads; others follow."""
    order = {title: place for place, title in enumerate(titles)}

    def place(title):
        plain, threads = threads_of(title)
        return order.get(plain, len(order)), abs(threads - 2), threads

    return "\n\n".join([head, *(f"## {title}\n\n{sections[title]}" for title in sorted(sections, key=place))]) + "\n"


def section(command, about, notes, printed):
    """Return the body of a section: how it was made, when and where, what is to be said of it, what was printed."""
    lines = [about, ["---"] * len(about), about.values()]
    table = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    printed = re.sub(r"^#", "###", printed.strip(), flags=re.MULTILINE)  # a heading there starts no section
    return "\n\n".join(part for part in (command, table, notes, printed) if part)


def tables(body):
    """Return the Markdown tables of a section, each as a list of rows, the first one its header."""
    found, last = [], ""
    for line in body.splitlines():
        if line.startswith("|"):
            if not last.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip().strip("|").split(" | ")])
        last = line
    return [[header, *rows] for header, _, *rows in found]


def cells(body, row, column):
    """Return the cells of a column in the row of that name, or in every row where it is None; empty if there is none.

    A table whose header has the column is looked through; the name of a row is its first cell. Of several columns of
    that name the last one counts.
    """
    for header, *rows in tables(body):
        if column in header:
            at = max(place for place, name in enumerate(header) if name == column)
            chosen = [cells_[at] for cells_ in rows if row in (None, cells_[0])]
            if chosen:
                return chosen
    return []


def with_table(head, start, table):
    """Return a head whose table that begins with `start` is replaced by `table`."""
    found = re.search(rf"^{re.escape(start)}.*\n(\|.*\n?)*", head, flags=re.MULTILINE)
    if found is None:
        return f"{head}\n\n{table}"
    return f"{head[: found.start()]}{table}\n{head[found.end() :]}".strip()
