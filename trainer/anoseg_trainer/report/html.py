"""Builds report.html, one file that opens offline, from numbers, charts and images. It does not depend on the network."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from anoseg_engines.errors import AnosegError
from anoseg_engines.images import Image

PICTURE = 200
"""Longer side of a picture in the report, pixels."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1120px; color: #222; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; } th, td { text-align: right; padding: 2px 10px; border-bottom: 1px solid #eee; }
th:first-child, td:first-child, .facts td { text-align: left; }
th:first-child, td:first-child { white-space: nowrap; }
.row { display: flex; flex-wrap: wrap; gap: 18px; } figure { margin: 0; max-width: 640px; } figcaption { font-size: 13px; }
figure img { background: #000; margin-right: 2px; vertical-align: top; }
.lead { border-left: 8px solid; padding: 2px 16px; background: #f8f8f8; } .lead h2 { border: 0; margin: 10px 0 4px; }
.good { border-color: #2a8c3c; } .care { border-color: #d99a00; } .bad { border-color: #c22e2e; }
.lead .answer { font-size: 1.3em; font-weight: 600; margin: 8px 0; } .lead p, .lead ol { margin: 4px 0 8px; }
.groups { display: grid; grid-template-columns: repeat(3, 1fr); gap: 16px; } .groups h2 { font-size: 1em; }
.marked { max-width: 345px; } .groups figure { margin-bottom: 8px; }
.groups .marked img { max-width: 49%; } .groups figcaption { overflow-wrap: anywhere; }
.legend { font-size: 13px; color: #555; }
@media (max-width: 700px) { .groups { grid-template-columns: 1fr; gap: 4px; } .marked { max-width: 100%; } }
td { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } svg { max-width: 100%; height: auto; } figure img { max-width: 100%; }
pre { background: #f6f6f6; padding: 10px; overflow-x: auto; font-size: 13px; } .note { background: #fff6d8; padding: 6px 10px; }
"""


@dataclass(frozen=True, slots=True)
class ReportCase:
    """One inspected image.

    Attributes:
        caption: Text below the pictures.
        image: uint8 [h, w, 3].
        anomaly_map: float32 [h, w] in 0…1.
        mask: The true defect, bool [h, w]; None if it is unknown.
    """

    caption: str
    image: Image
    anomaly_map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None


@dataclass(slots=True)
class Report:
    """The parts of a report, in the order in which they are written.

    Attributes:
        title: Heading of the page.
        lead: What follows the heading, as HTML, see `lead.lead_html`.
        tables: Title to rows; the first row is the head.
        charts: Title to SVG text.
        cases: Title to the images shown below it.
        notes: Remarks.
        facts: Names and values.
        settings: The configuration, shown as YAML.
    """

    title: str
    lead: str = ""
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    charts: dict[str, str] = field(default_factory=dict)
    cases: dict[str, list[ReportCase]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        """Return the text of the file."""
        parts = [f"<h1>{escape(self.title)}</h1>", self.lead]
        for title, table in self.tables.items():
            parts += [f"<h2>{escape(title)}</h2>", _table(table)]
        if self.charts:
            charts = (
                f"<figure><figcaption><b>{escape(title)}</b></figcaption>{chart}</figure>"
                for title, chart in self.charts.items()
            )
            parts.append(f'<h2>Charts</h2><div class="row">{"".join(charts)}</div>')
        parts += [_cases(title, cases) for title, cases in self.cases.items() if cases]
        if self.notes:
            parts += ["<h2>Remarks</h2>", *(f'<p class="note">{escape(note)}</p>' for note in self.notes)]
        if self.facts:
            rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in self.facts.items())
            parts.append(f'<h2>This bundle</h2><table class="facts">{rows}</table>')
        if self.settings:
            text = yaml.safe_dump(dict(self.settings), sort_keys=False, allow_unicode=True)
            parts.append(f"<h2>Settings</h2><pre>{escape(text)}</pre>")
        phones = '<meta name="viewport" content="width=device-width, initial-scale=1">'
        head = f'<meta charset="utf-8">{phones}<title>{escape(self.title)}</title><style>{STYLE}</style>'
        return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            AnosegError: The file cannot be written.
        """
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(self.html(), encoding="utf-8", errors="backslashreplace")
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise AnosegError(
                f"{path}: the report cannot be written ({error.strerror})", hint="free space or choose another folder"
            ) from error


def extremes(scores: Sequence[float], each: int) -> tuple[list[int], list[int]]:
    """Return the indices of the lowest and of the highest scores, most extreme first; no index is in both lists."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    low = order[: min(each, (len(order) + 1) // 2)]
    return low, [i for i in order[::-1][:each] if i not in low]


def _table(rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _cases(title: str, cases: list[ReportCase]) -> str:
    shown = "image, map, mask" if any(case.mask is not None for case in cases) else "image, map"
    pictures = "".join(_case(case) for case in cases)
    return f'<h2>{escape(title)}: {shown}</h2><div class="row">{pictures}</div>'


def _case(case: ReportCase) -> str:
    height, width = case.image.shape[:2]
    heat = cv2.applyColorMap(np.rint(np.clip(case.anomaly_map, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    pictures = [case.image, heat]
    if case.mask is not None:
        pictures.append(cv2.merge([case.mask.astype(np.uint8) * 255] * 3))
    scale = PICTURE / max(height, width)
    images = "".join(picture_html(p, scale) for p in pictures)
    return f"<figure>{images}<figcaption>{escape(case.caption)}</figcaption></figure>"


def picture_html(picture: NDArray[Any], scale: float) -> str:
    """Return an `<img>` element that holds the picture itself."""
    return f'<img src="data:image/png;base64,{_png(picture, scale)}" alt="">'


def _png(picture: NDArray[Any], scale: float) -> str:
    height, width = picture.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return base64.b64encode(cv2.imencode(".png", small)[1].tobytes()).decode()
