"""Horizontal bars as SVG, written by hand: a picture for a page, not for analysis; the figures are in results.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LABELS, _ROOM = 760, 210, 110  # pixels: all of it, left of the bars, right of them
_BAR, _GAP, _TOP = 18, 8, 56
_INK, _OURS, _OTHERS, _TARGET = "#24292f", "#1a7f37", "#8c959f", "#cf222e"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar. text: what stands behind it. ours: it is drawn in another colour."""

    label: str
    value: float
    text: str
    ours: bool = False


def bars(title: str, unit: str, found: Sequence[Bar], *, target: float | None = None) -> str:
    """Return an SVG of `found` in its order; `target` is a line across, if there is one."""
    widest = max([bar.value for bar in found] + [target or 0.0]) or 1.0
    scale = (_WIDTH - _LABELS - _ROOM) / widest
    height = _TOP + len(found) * (_BAR + _GAP) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        f'<g font-family="sans-serif" font-size="13" fill="{_INK}" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="12" y="42" fill="{_OTHERS}">{escape(unit)}</text>',
    ]
    for number, bar in enumerate(found):
        y = _TOP + number * (_BAR + _GAP)
        width = max(bar.value * scale, 1.0)
        colour = _OURS if bar.ours else _OTHERS
        parts += [
            f'<text x="{_LABELS - 10}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_LABELS + width + 6:.1f}" y="{y + 14}">{escape(bar.text)}</text>',
        ]
    if target is not None:
        x = _LABELS + target * scale
        parts.append(f'<path d="M{x:.1f} {_TOP - 6}V{height - 12}" stroke="{_TARGET}" stroke-dasharray="4 3"/>')
    return "\n".join([*parts, "</g>", "</svg>", ""])
