"""A report: text, figures and tables as one self-contained HTML file, readable on a phone.

The file holds its figures as base64 PNG and its style, runs no script and fetches nothing (its own security policy
forbids it). Everything that comes from outside is escaped.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from ppl_vae.core import files
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.progress import bar
from ppl_vae.plots.canvas import styled

#: Resolutions to try in turn (dots per inch) until the file is no larger than `LARGEST` bytes.
RESOLUTIONS = (160, 120, 90, 60)
LARGEST = 3_000_000


@dataclass
class _Block:
    """One piece of the report, in reading order; `kind` is section, prose, figure or table."""

    kind: str
    anchor: str = ""
    html: Markup = field(default_factory=Markup)
    number: int = 0
    caption: Markup = field(default_factory=Markup)
    figure: Figure | None = None
    header: Sequence[tuple[str, str]] = ()
    rows: Sequence[Sequence[tuple[str, str]]] = ()


class Report:
    """Collect text, figures and tables in reading order, then `write` them.

    Parameters
    ----------
    title, subtitle : str
        Head of the report.
    environment : mapping of str to object, optional
        What made it (versions, device, seeds, command), shown at the foot.

    Examples
    --------
    >>> report = Report("PPCA on digits")                          # doctest: +SKIP
    >>> report.text("## Training")                                 # doctest: +SKIP
    >>> report.figure(plots.history(run.history), "The bound rises and levels off.", "history")  # doctest: +SKIP
    >>> report.write("runs/ppca/report.html")                      # doctest: +SKIP
    """

    def __init__(self, title: str, subtitle: str = "", *, environment: Mapping[str, Any] | None = None) -> None:
        self.title = title
        self.subtitle = subtitle
        self.environment = dict(environment or {})
        self._blocks: list[_Block] = []

    def text(self, text: str) -> None:
        """Add text: blocks parted by empty lines, each a paragraph, a list (``- ``) or a section's head (``## ``).

        Inside them ``**bold**`` and backquoted code are understood; everything else is shown as it is.
        """
        for block in re.split(r"\n\s*\n", text.strip()):
            lines = [line.strip() for line in block.splitlines() if line.strip()]
            if not lines:
                continue
            if lines[0].startswith("## "):
                head = lines.pop(0)[3:].strip()
                self._blocks.append(_Block("section", self._anchor(head), _inline(head)))
            if lines and all(line.startswith("- ") for line in lines):
                items = Markup("").join(Markup("<li>{}</li>").format(_inline(line[2:])) for line in lines)
                self._blocks.append(_Block("prose", html=Markup("<ul>{}</ul>").format(items)))
            elif lines:
                self._blocks.append(_Block("prose", html=Markup("<p>{}</p>").format(_inline(" ".join(lines)))))

    def figure(self, figure: Figure, caption: str, name: str) -> None:
        """Add a figure; `caption` says what to see in it, `name` is its file's name (without ``.png``).

        Raises
        ------
        InputError
            If it is no figure, has no caption, or `name` is taken or no plain file name.
        """
        if not isinstance(figure, Figure):
            raise InputError("figure", expected="a matplotlib Figure", got=type(figure).__name__)
        if not caption.strip():
            raise InputError(f"caption of figure {name!r}", expected="a sentence that says what to see", got="nothing")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise InputError("figure name", expected="letters, digits, '-' and '_'", got=shown(name))
        if any(block.kind == "figure" and block.anchor == name for block in self._blocks):
            raise InputError("figure name", expected="one not used in this report yet", got=shown(name))
        number = 1 + sum(block.kind == "figure" for block in self._blocks)
        self._blocks.append(_Block("figure", name, number=number, caption=_inline(caption), figure=figure))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> None:
        """Add a table; numbers are set right, values that are not finite in red, None as a dash.

        Raises
        ------
        InputError
            If a row has not as many cells as the header.
        """
        for row in rows:
            if len(row) != len(header):
                raise InputError("table row", expected=f"{len(header)} cells, as in the header", got=str(len(row)))
        number = 1 + sum(block.kind == "table" for block in self._blocks)
        cells = [[_cell(value) for value in row] for row in rows]
        heads = [
            (str(name), "number" if rows and all(row[column][1] for row in cells) else "")
            for column, name in enumerate(header)
        ]
        block = _Block("table", f"table-{number}", number=number, caption=_inline(caption), header=heads, rows=cells)
        self._blocks.append(block)

    def write(self, path: str | os.PathLike[str], *, progress: bool | None = None) -> Path:
        """Write the report to `path` and its figures to ``figures/NAME.png`` beside it; return `path`.

        Every file is replaced whole or not at all. Figures are drawn as sharply as keeps the report under 3 MB; a bar
        shows how far that is, by default on a terminal.

        Raises
        ------
        RunError
            If the folder cannot be written to or the disk is full.
        """
        target = Path(path)
        figures = {block.anchor: block.figure for block in self._blocks if block.figure is not None}
        for resolution in RESOLUTIONS:
            pictures = {}
            with bar("figures", len(figures), progress) as advance:
                for name, figure in figures.items():
                    pictures[name] = _png(figure, resolution)
                    advance()
            html = self._render(pictures).encode()
            if len(html) <= LARGEST:
                break
        for name, picture in pictures.items():
            files.write_bytes(files.inside(target.parent, "figures") / f"{name}.png", picture)
        files.write_bytes(target, html)
        return target

    def _render(self, pictures: Mapping[str, bytes]) -> str:
        templates = Environment(
            loader=PackageLoader("ppl_vae.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        return templates.get_template("report.html.j2").render(
            title=self.title,
            subtitle=self.subtitle,
            blocks=self._blocks,
            contents=[block for block in self._blocks if block.kind == "section"],
            data={name: base64.b64encode(picture).decode() for name, picture in pictures.items()},
            environment={name: str(value) for name, value in self.environment.items()},
        )

    def _anchor(self, head: str) -> str:
        slug = "section-" + (re.sub(r"[^a-z0-9]+", "-", head.lower()).strip("-") or "part")
        taken = sum(block.anchor == slug or block.anchor.startswith(f"{slug}--") for block in self._blocks)
        return f"{slug}--{taken + 1}" if taken else slug


def _inline(text: str) -> Markup:
    """Escape `text`, then turn its backquotes and double asterisks into code and bold."""
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text.strip())))
    return Markup(re.sub(r"\*\*(\S(?:.*?\S)?)\*\*", r"<strong>\1</strong>", html))


def _cell(value: Any) -> tuple[str, str]:
    """Return a cell's text and its class: number, or number bad."""
    if value is None:
        return "–", "number"
    if isinstance(value, str | bool):
        return str(value), ""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value), ""
    if math.isnan(number):
        return "NaN", "number bad"
    if math.isinf(number):
        return "∞" if number > 0 else "−∞", "number bad"
    if isinstance(value, int) or number == 0:
        text = f"{number:,.0f}".replace(",", "\u202f")
    else:
        text = f"{number:.3f}" if 1e-3 <= abs(number) < 1e5 else f"{number:.3g}"
    return text.replace("-", "−"), "number"


@styled
def _png(figure: Figure, resolution: int) -> bytes:
    """Draw a figure; the bytes depend on nothing but the figure and the resolution."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=resolution, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
