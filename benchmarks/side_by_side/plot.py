"""The comparison as an SVG of bars, written by hand: no library, and readable on light and dark pages.

A panel is a cell with a scale of its own, because what takes one request at a time and what takes 512
would not be seen on one. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

COLUMNS, PANEL_WIDTH, BAR_HEIGHT, BAR_STEP = 2, 440, 12, 18
NAME_WIDTH, VALUE_WIDTH, HEAD, MARGIN = 92, 96, 34, 14
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 12px }
.name { text-anchor: end }
.bar { fill: #8c959f } .ours { fill: #0969da } .missing { fill: #6e7781; font-style: italic }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .bar { fill: #6e7681 } .ours { fill: #4493f8 } .missing { fill: #8d96a0 }
}
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """`bars` by peer: None where it was left out."""

    title: str
    bars: dict[str, float | None]


def svg(panels: list[Panel], highlighted: str) -> str:
    height = HEAD + BAR_STEP * max(len(panel.bars) for panel in panels) + MARGIN
    rows = -(-len(panels) // COLUMNS)
    width, whole = COLUMNS * PANEL_WIDTH + MARGIN, rows * height + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {whole}" width="{width}"'
        f' height="{whole}" role="img" aria-label="bin/bench peers">',
        f"<style>{STYLE}</style>",
    ]
    for number, panel in enumerate(panels):
        x, y = number % COLUMNS * PANEL_WIDTH, number // COLUMNS * height
        lines += [f'<g transform="translate({x} {y})">', *_panel(panel, highlighted), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: Panel, highlighted: str) -> Iterable[str]:
    yield f'<text class="title" x="{MARGIN}" y="22">{escape(panel.title)}</text>'
    most = max((value for value in panel.bars.values() if value), default=1.0)
    for number, (peer, value) in enumerate(panel.bars.items()):
        y = HEAD + number * BAR_STEP
        yield f'<text class="name" x="{NAME_WIDTH}" y="{y + BAR_HEIGHT - 2}">{escape(peer)}</text>'
        if value is None:
            yield f'<text class="missing" x="{NAME_WIDTH + 8}" y="{y + BAR_HEIGHT - 2}">left out</text>'
            continue
        length = max(1.0, value / most * (PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH))
        kind = "bar ours" if peer == highlighted else "bar"
        place = f'x="{NAME_WIDTH + 8}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}"'
        yield f'<rect class="{kind}" {place}/>'
        yield f'<text x="{NAME_WIDTH + 14 + length:.1f}" y="{y + BAR_HEIGHT - 2}">{value:,.0f}</text>'
