"""`aioring bench --html`: one page that needs nothing else, to be kept or attached to an issue. The plots are matplotlib's,
as SVG within the page.
"""

from __future__ import annotations

import html
import importlib
import io
import re
from typing import Any

from ..console import fail
from .measure import ROUNDS, Column, Results

__all__ = ["page", "plotting"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
body { color: #222; background: #fff }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0 }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
svg { max-width: 100%; height: auto }
pre { overflow-x: auto; background: #f4f4f4; padding: .7rem; white-space: pre-wrap }
"""


def plotting() -> Any:
    """matplotlib, asked for before a minute is spent on measuring."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ImportError:
        fail("--html needs matplotlib: pip install 'aioring-io[html]'")
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def page(
    pyplot: Any,
    heading: str,
    facts: list[tuple[str, str]],
    verdict: list[str],
    table: list[list[str]],
    results: Results,
) -> str:
    """`facts`: of the machine. `table`: its first row has the titles."""
    head, *rows = table
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{html.escape(heading)}</title><style>{_STYLE}</style><h1>{html.escape(heading)}</h1>",
        *(f"<p>{html.escape(sentence)}</p>" for sentence in verdict),
        *(_plot(pyplot, results, busy) for busy in (False, True)),
        "<h2>Reads a second</h2><table><tr>",
        *(f"<th>{html.escape(cell)}</th>" for cell in head),
        "</tr>",
        *(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows),
        f"</table><p>4 KiB each, at random; medians of {ROUNDS} rounds in which all ways had their turn. In brackets: by "
        "the thread pool's.</p><h2>Machine</h2><table>",
        *(
            f"<tr><td>{html.escape(name)}</td><td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in facts
        ),
        "</table>",
    ]
    return "\n".join(parts) + "\n"


def _plot(pyplot: Any, results: Results, busy: bool) -> str:
    """Bars, by what was read; the axis is logarithmic: the ways are orders of magnitude apart."""
    shown = [column for column in results.columns if column.busy == busy]
    names = results.ways
    if not shown:
        return ""
    figure, axes = pyplot.subplots(figsize=(9, 0.35 + 0.22 * len(shown) * (len(names) + 1)))
    for n, name in enumerate(names):
        places = [at * (len(names) + 1) + n for at in range(len(shown))]
        values = [results.rate(name, column) or 0 for column in shown]
        bars = axes.barh(places, values, label=name, height=0.9)
        axes.bar_label(bars, [f"{value:,.0f}" if value else "" for value in values], padding=3, fontsize=7)
    axes.set_yticks([at * (len(names) + 1) + (len(names) - 1) / 2 for at in range(len(shown))])
    axes.set_yticklabels([_label(column) for column in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("reads a second")
    axes.set_title("beside a thread that runs Python" if busy else "idle", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    drawn = out.getvalue()
    return re.sub(r"^.*?(?=<svg)", "", drawn, count=1, flags=re.DOTALL)


def _label(column: Column) -> str:
    return column._replace(busy=False).title
