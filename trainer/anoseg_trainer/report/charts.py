"""Draws line charts and histograms as inline SVG, with matplotlib. A report that contains them opens offline.

matplotlib takes half a second to import and is imported when the first chart is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_INCHES = (5.4, 2.8)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched and copied, and takes the page's font
    "svg.hashsalt": "anoseg",  # the same chart gives the same file
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}
NOTHING = "<p>no data to draw</p>"

Line = Sequence[tuple[float, float]]


def line_chart(lines: Mapping[str, Line], x_label: str, y_label: str, marks: Mapping[str, float] | None = None) -> str:
    """Draw lines as SVG.

    Args:
        lines: Name of each line to its (x, y) points. Points that are not a number are left out.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        marks: Names and x values of dashed vertical lines.
    """
    points = {name: [p for p in line if np.isfinite(p).all()] for name, line in lines.items()}
    if not any(points.values()):
        return NOTHING

    def draw(axes: Axes) -> None:
        for n, (name, line) in enumerate(points.items()):
            x, y = zip(*line, strict=True) if line else ((), ())
            axes.plot(x, y, label=name, marker="." if len(line) < 40 else "", linewidth=1.5, gid=f"line-{n}")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set(xlabel=x_label, ylabel=y_label)

    return _svg(draw, marks or {})


def histogram(groups: Mapping[str, Sequence[float]], x_label: str, marks: Mapping[str, float], bins: int = 40) -> str:
    """Draw histograms of values in 0…1 as SVG; the bars of each group add up to 1.

    Args:
        groups: Name of each group to its values. Empty groups are left out.
        x_label: Label of the x axis.
        marks: Names and x values of dashed vertical lines.
        bins: Number of bars.
    """
    filled = {name: np.clip(values, 0, 1) for name, values in groups.items() if len(values)}
    if not filled:
        return NOTHING

    def draw(axes: Axes) -> None:
        for name, values in filled.items():
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, np.linspace(0, 1, bins + 1).tolist(), weights=weights, label=name, alpha=0.55)
        axes.set(xlabel=x_label, ylabel="share of images", xlim=(0, 1))

    return _svg(draw, marks)


def scatter(
    groups: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, thresholds: tuple[float, float]
) -> str:
    """Draw pairs of scores in 0…1 as SVG, with a dashed line at the threshold of each axis.

    Args:
        groups: Name of each group to its (x, y) points. Empty groups are left out.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        thresholds: Of x and of y.
    """
    filled = {name: points for name, points in groups.items() if points}
    if not filled:
        return NOTHING

    def draw(axes: Axes) -> None:
        for marker, (name, points) in zip("o^", filled.items(), strict=False):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker, label=name, markersize=4, alpha=0.6)
        axes.axhline(thresholds[1], color="black", linestyle="--", linewidth=1)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1))

    return _svg(draw, {"threshold": thresholds[0]})


def _svg(draw: Callable[[Axes], None], marks: Mapping[str, float]) -> str:
    """Draw one chart with a legend below it and return its `<svg>` element."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        for name, x in marks.items():
            axes.axvline(x, color="black", linestyle="--", linewidth=1, label=f"{name} {x:.3g}")
        figure.legend(loc="outside lower center", ncols=3)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # HTML needs no XML prolog, document type or name spaces inside the page; they are the only web addresses in the file.
    svg = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
