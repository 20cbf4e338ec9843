"""Charts as inline SVG text: lines and histograms. Pure functions; nothing is fetched, so a report opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
COLOURS = ("#1f6fb4", "#c23b22", "#3a8f3a", "#8a56ac", "#b8860b", "#555555")

Line = Sequence[tuple[float, float]]


def line_chart(lines: Mapping[str, Line], x_label: str, y_label: str, marks: Mapping[str, float] | None = None) -> str:
    """Lines of (x, y) points by name; `marks` are dashed upright lines at an x. Points that are no number are left out."""
    shown = {name: [p for p in line if p[0] == p[0] and p[1] == p[1]] for name, line in lines.items()}
    points = [p for line in shown.values() for p in line]
    if not points:
        return "<p>nothing to draw</p>"
    marks = marks or {}
    x_low, x_high = _range([p[0] for p in points] + list(marks.values()))
    y_low, y_high = _range([0.0, *(p[1] for p in points)])
    parts = [_frame(x_low, x_high, y_low, y_high, x_label, y_label)]
    for n, line in enumerate(shown.values()):
        path = " ".join(f"{_x(x, x_low, x_high):.1f},{_y(y, y_low, y_high):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_colour(n)}" stroke-width="1.8"/>')
    parts += [_mark(name, x, x_low, x_high) for name, x in marks.items()]
    return _svg(parts, list(lines))


def histogram(groups: Mapping[str, Sequence[float]], x_label: str, marks: Mapping[str, float], bins: int = 40) -> str:
    """Shares of values in 0…1 by bin, one colour a group; `marks` are dashed upright lines."""
    groups = {name: values for name, values in groups.items() if len(values)}
    if not groups:
        return "<p>nothing to draw</p>"
    shares = {}
    for name, values in groups.items():
        counts = [0] * bins
        for value in values:
            counts[min(bins - 1, max(0, int(value * bins)))] += 1
        shares[name] = [count / len(values) for count in counts]
    top = max(max(s) for s in shares.values())
    parts = [_frame(0.0, 1.0, 0.0, top, x_label, "share of images")]
    for n, bars in enumerate(shares.values()):
        for i, share in enumerate(bars):
            if share:
                x, y = _x(i / bins, 0, 1), _y(share, 0, top)
                width, height = (WIDTH - LEFT - RIGHT) / bins, HEIGHT - BOTTOM - y
                parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                    f'fill="{_colour(n)}" fill-opacity="0.55"/>'
                )
    parts += [_mark(name, x, 0.0, 1.0) for name, x in marks.items()]
    return _svg(parts, list(groups))


def _colour(n: int) -> str:
    return COLOURS[n % len(COLOURS)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + 1.0)


def _x(x: float, low: float, high: float) -> float:
    return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _y(y: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _mark(name: str, x: float, low: float, high: float) -> str:
    at = _x(x, low, high)
    anchor = "end" if at > WIDTH / 2 else "start"
    return (
        f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#000" stroke-dasharray="4 3"/>'
        f'<text x="{at + (-4 if anchor == "end" else 4):.1f}" y="{TOP + 10}" text-anchor="{anchor}">{escape(name)}</text>'
    )


def _frame(x_low: float, x_high: float, y_low: float, y_high: float, x_label: str, y_label: str) -> str:
    parts = []
    for i in range(6):
        x, y = x_low + (x_high - x_low) * i / 5, y_low + (y_high - y_low) * i / 5
        at_x, at_y = _x(x, x_low, x_high), _y(y, y_low, y_high)
        parts.append(f'<line x1="{LEFT}" y1="{at_y:.1f}" x2="{WIDTH - RIGHT}" y2="{at_y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at_y + 4:.1f}" text-anchor="end">{y:.3g}</text>')
        parts.append(f'<text x="{at_x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x:.3g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 12 {HEIGHT / 2})">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _svg(parts: list[str], names: list[str]) -> str:
    keys = " ".join(
        f'<span class="key"><i style="background:{_colour(n)}"></i>{escape(name)}</span>' for n, name in enumerate(names)
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">{"".join(parts)}</svg><div>{keys}</div>'
