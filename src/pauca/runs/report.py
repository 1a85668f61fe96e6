"""`report.html`: one self-contained page, readable by a person without the run folder beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pauca.runs.files import write_text
from pauca.runs.pictures import png_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --paper: #fcfcfa; --line: #d9dcd6; --soft: #5d6670; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e3; --paper: #16191c; --line: #363c42; --soft: #9aa3ab; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.9rem; margin-bottom: .2rem }
h2 { margin-top: 2.6rem; border-top: 1px solid var(--line); padding-top: 1.2rem }
figure { margin: 1.2rem 0 } figure img { max-width: 100%; background: white; border-radius: 4px }
figcaption, .soft { color: var(--soft); font-size: .92rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line) }
td.number { text-align: right } code { font-size: .92em }
"""


@dataclass
class Report:
    """A page that grows from the top: headings, paragraphs, tables, figures; `save` writes it."""

    title: str
    subtitle: str = ""
    _parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        """A table; numbers are aligned to the right. `rows` hold strings or numbers, already rounded."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
        note = f'<p class="soft">{html.escape(caption)}</p>' if caption else ""
        self._parts.append(f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>{note}')

    def figure(self, figure: Figure, caption: str) -> None:
        """A matplotlib figure, embedded as PNG; `caption` also serves as its description for screen readers."""
        data = base64.b64encode(png_of(figure)).decode("ascii")
        words = html.escape(caption)
        self._parts.append(
            f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'
        )

    def save(self, path: Path, force: bool = True) -> None:
        """Write the page to `path` atomically."""
        title = html.escape(self.title)
        page = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
            f'<body><h1>{title}</h1><p class="soft">{html.escape(self.subtitle)}</p>{"".join(self._parts)}'
            "</body></html>\n"
        )
        write_text(path, page, force)


def _cell(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f'<td class="number">{value:,}</td>' if number else f"<td>{html.escape(str(value))}</td>"
