"""How many entries waited, over time, as a drawing. Pure: no I/O and no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import accumulate

# How many moments one drawing shows; the drawing is 720 units wide, so that each has three.
STEPS = 240

# How many entries are read, before the plot's first moment and after it, however many there are.
LOOKED_AT = 20_000


def every(low: int, high: int) -> int:
    """Return how many numbers one entry stands for, so that no more than LOOKED_AT are read."""
    return max(1, -(-(high - low + 1) // LOOKED_AT))


_WIDTH, _HEIGHT = 720, 200
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 12, 16, 28
_LINES = 4
_TIMES = 6


def backlog(groups: Iterable[tuple[int, int | None, int]], steps: int = STEPS) -> list[int]:
    """Return how many entries waited at the end of each step.

    groups: step of the put, step in which it was settled (None: still pending), how many; step -1: before.
    """
    change = [0] * (steps + 1)
    for put, settled, entries in groups:
        change[put + 1] += entries
        if settled is not None:
            change[max(settled, put) + 1] -= entries
    return list(accumulate(change))[1:]


def ticks(top: int) -> list[int]:
    """Return 0 and some round numbers, of which the last is at least `top`."""
    step = 1
    while step * _LINES < top:
        # 1, 2, 5, 10, 20, 50 …
        step = step * 5 // 2 if str(step).startswith("2") else step * 2
    return [step * number for number in range(_LINES + 1)]


def drawing(counts: Sequence[int], start_ms: int, end_ms: int) -> str:
    """Return `counts`, taken at equal distances from `start_ms` to `end_ms`, as an SVG element: times in UTC."""
    lines = ticks(max(counts, default=0))
    across, up = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1), (_HEIGHT - _TOP - _BOTTOM) / lines[-1]
    floor = _HEIGHT - _BOTTOM
    points = [(_LEFT + across * (number + 1), floor - up * count) for number, count in enumerate(counts)]
    path = " ".join(f"L{x:.1f} {y:.1f}" for x, y in points)
    area = f"M{_LEFT} {floor} {path} L{_WIDTH - _RIGHT} {floor} Z"
    return "\n".join(
        [
            f'<svg class="backlog" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="11" fill="currentColor">',
            f"<title>Backlog over time: at most {max(counts, default=0):,}, now {(counts or [0])[-1]:,}</title>",
            *(_level(value, floor - up * value) for value in lines),
            f'<path class="area" d="{area}" fill="#276890" fill-opacity="0.25" stroke="#276890" stroke-width="1.5"/>',
            *_moments(start_ms, end_ms, floor),
            "</svg>",
        ]
    )


def _level(value: int, y: float) -> str:
    place = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
    line = f'<line {place} stroke="currentColor" stroke-opacity="0.2"/>'
    return f'{line}<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>'


def _moments(start_ms: int, end_ms: int, floor: int) -> list[str]:
    style = "%H:%M:%S" if end_ms - start_ms < 600_000 else "%H:%M" if end_ms - start_ms < 86_400_000 else "%d %b %H:%M"
    texts = []
    for number in range(_TIMES + 1):
        share = number / _TIMES
        moment = datetime.fromtimestamp((start_ms + (end_ms - start_ms) * share) / 1000, UTC)
        anchor = "start" if number == 0 else "end" if number == _TIMES else "middle"
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * share
        texts.append(f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="{anchor}">{moment.strftime(style)}</text>')
    return texts
