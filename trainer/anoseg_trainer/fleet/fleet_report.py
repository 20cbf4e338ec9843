"""Writes the report on all products, the worst first: fleet.html for people, fleet.json for programs. Main thread."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import msgspec

from anoseg_engines.errors import AnosegError
from anoseg_engines.files import shown_json, shown_name, write_synced
from anoseg_engines.images import read_image
from anoseg_engines.words import agreeing, counted, rounded_up
from anoseg_trainer.fit_status import Figures
from anoseg_trainer.fleet.products_file import HTML, JSON
from anoseg_trainer.fleet.supervision import Account
from anoseg_trainer.operating_point import share_of
from anoseg_trainer.report.html import STYLE, picture_html

PICTURE = 56
"""Longer side of a product's picture, pixels."""
LEVELS = ("failed", "not trained", "bad", "care", "good")
"""The worst first."""
WORDS = {
    "failed": "failed",
    "not trained": "not finished",
    "bad": "not good enough yet",
    "care": "use with care",
    "good": "good enough to try",
}
FLEET_STYLE = """
body { max-width: 1280px; }
.counts { display: flex; gap: 12px; flex-wrap: wrap; margin: 1em 0; } .counts div { padding: 6px 14px; border-left: 6px solid; }
.counts b { font-size: 1.6em; display: block; } .counts div { background: #f8f8f8; }
.strip { display: flex; height: 14px; margin: 8px 0 20px; } .strip a { flex: 1; margin-right: 1px; }
.strip .failed, .strip .bad { background: #c22e2e; } .strip .care { background: #d99a00; } .strip .good { background: #2a8c3c; }
.strip .not { background: #999; } .strip .failed { background: #7d0000; }
.counts .failed { border-color: #7d0000; } .counts .not { border-color: #999; } .counts .bad { border-color: #c22e2e; }
.counts .care { border-color: #d99a00; } .counts .good { border-color: #2a8c3c; }
.fleet { width: 100%; } .fleet td, .fleet th { text-align: left; vertical-align: top; padding: 6px 10px; }
.fleet td:first-child { border-left: 6px solid; padding-right: 0; } .fleet th:first-child { border-left: 6px solid #fff; }
.fleet tr.good td:first-child { border-left-color: #2a8c3c; } .fleet tr.care td:first-child { border-left-color: #d99a00; }
.fleet tr.bad td:first-child { border-left-color: #c22e2e; } .fleet tr.failed td:first-child { border-left-color: #7d0000; }
.fleet tr.not td:first-child { border-left-color: #999; }
.fleet small { color: #555; display: block; } .fleet img { background: #000; display: block; }
.bar, .bar i { display: block; height: 6px; } .bar { background: #e8c1c1; width: 150px; margin: 3px 0; }
.bar i { background: #2a8c3c; }
.answer { white-space: nowrap; } td.words { overflow-wrap: anywhere; max-width: 400px; }
"""


def level_of(account: Account) -> str:
    """Return which of `LEVELS` a product has."""
    if account.phase == "failed" or (account.phase == "waiting" and account.why):
        return "failed"
    figures = figures_of(account)
    return "not trained" if figures is None else figures.level


def figures_of(account: Account) -> Figures | None:
    """Return the figures of a product that is finished."""
    return account.status.figures if account.phase == "finished" and account.status is not None else None


def worst_first(accounts: Sequence[Account]) -> list[Account]:
    """Sort the products: failed ones, those without a bundle, then by verdict and by the share of defects that is rejected."""

    def place(account: Account) -> tuple[int, float, str]:
        figures = figures_of(account)
        return LEVELS.index(level_of(account)), 0.0 if figures is None else figures.caught, account.training.name

    return sorted(accounts, key=place)


def write_report(products: Path, work: Path, accounts: Sequence[Account]) -> Path:
    """Write both files into the work folder; return the path of the page.

    Raises:
        AnosegError: They cannot be written.
    """
    ordered = worst_first(accounts)
    _replace(work / JSON, shown_json(msgspec.json.encode(_record(products, ordered)).decode()).encode())
    _replace(work / HTML, _page(products, work, ordered).encode("utf-8", "backslashreplace"))
    return work / HTML


def _replace(path: Path, data: bytes) -> None:
    """Replace a file as a whole. Several fleets may write it at a time, on several machines.

    Raises:
        AnosegError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, data)
        temporary.replace(path)
    except OSError as error:
        what = f"{shown_name(path)}: the report cannot be written ({error.strerror})"
        raise AnosegError(what, hint="free space, or remove what is in the way; the same command then writes it") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _record(products: Path, ordered: Sequence[Account]) -> dict[str, Any]:
    return {
        "schema": "anoseg.fleet/1",
        "products_file": shown_name(products.absolute()),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "products": [_row(account) for account in ordered],
    }


def _row(account: Account) -> dict[str, Any]:
    figures, training = figures_of(account), account.training
    return {
        "name": training.name,
        "phase": account.phase,
        "level": level_of(account),
        "bundle": None if figures is None else shown_name(training.out / str(figures.version)),
        "report": None if figures is None else shown_name(training.work / figures.report),
        "log": shown_name(training.work / "fit.log"),
        "error": account.why or None,
        "exit_code": account.exit_code or None,
        "restarts": account.restarts,
        "figures": None if figures is None else {**msgspec.to_builtins(figures), "caught": round(figures.caught, 5)},
    }


def _page(products: Path, work: Path, ordered: Sequence[Account]) -> str:
    counts = Counter(level_of(account) for account in ordered)
    tiles = "".join(
        f'<div class="{_class(level)}"><b>{counts[level]}</b>{WORDS[level]}</div>' for level in LEVELS if counts[level]
    )
    strip = "".join(
        f'<a class="{_class(level_of(account))}" href="#{name}" title="{name}"></a>'
        for account in ordered
        for name in (escape(account.training.name),)
    )
    titles = ("", "product", "verdict", "defects rejected", "good parts rejected", "what to do")
    head = f"<tr>{''.join(f'<th>{title}</th>' for title in titles)}</tr>"
    rows = "".join(f"<tr {_row_attributes(account)}>{''.join(_cells(account, work))}</tr>" for account in ordered)
    title = f"Fleet {products.name}: {counted(len(ordered), 'product')}"
    when = time.strftime("%Y-%m-%d %H:%M")
    notes = (
        "The worst come first. Defects and good parts are counted at each bundle's own score threshold, which is set for the "
        "share of good parts that may be rejected. Where a product has no images of real defects, synthetic ones are counted: "
        "real ones may be harder to find. All bundles are candidates: no line uses them before they are released."
    )
    phones = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{phones}<title>{escape(title)}</title>'
        f"<style>{STYLE}{FLEET_STYLE}</style></head><body><h1>{escape(title)}</h1><p>{when}</p>"
        f'<div class="counts">{tiles}</div><div class="strip">{strip}</div><p class="legend">{notes}</p>'
        f'<div class="wide"><table class="fleet">{head}{rows}</table></div></body></html>\n'
    )


def _class(level: str) -> str:
    return level.split(" ")[0]


def _row_attributes(account: Account) -> str:
    return f'class="{_class(level_of(account))}" id="{escape(account.training.name)}"'


def _cells(account: Account, work: Path) -> Iterator[str]:
    training, figures, level = account.training, figures_of(account), level_of(account)
    name = escape(training.name)
    yield f"<td>{_picture(account)}</td>"
    if figures is None:
        yield f"<td><b>{name}</b></td>"
        yield f'<td class="answer">{WORDS[level]}</td>'
        yield '<td colspan="2"></td>'
        yield f'<td class="words">{escape(_why_not(account))}<small>{escape(_log(account, work))}</small></td>'
        return
    link = _link(training.work / figures.report, work)
    trained = "without training" if not figures.steps else f"{figures.seconds / 60:.0f} min"
    yield f'<td><a href="{link}"><b>{name}</b></a><small>version {figures.version}, {trained}</small></td>'
    yield f'<td class="answer">{WORDS[level]}<small>{counted(figures.images, "good image")}</small></td>'
    share = round(100 * figures.caught)
    caught = share_of(figures.defective - figures.escapes, figures.defective)
    yield f'<td>{caught}<div class="bar"><i style="width: {share}%"></i></div><small>{escape(figures.defects)}</small></td>'
    yield f"<td>{_promise(figures)}<small>held out: {share_of(figures.false_rejects, figures.good)}</small></td>"
    yield f'<td class="words">{"".join(_to_do(account, figures))}</td>'


def _promise(figures: Figures) -> str:
    if figures.promised is None:
        return "not known"
    asked = f" (asked: {figures.asked:.1%})" if figures.needed else ""
    return f"at most {rounded_up(figures.promised):.1%}{asked}".replace("%", " %")


def _to_do(account: Account, figures: Figures) -> Iterator[str]:
    if figures.look_at:
        yield f"{escape(figures.look_at)}<br>"
    if figures.level == "good":
        bundle = shown_name(account.training.out / str(figures.version))
        yield f"Release it: <code>anoseg-engine release {escape(shlex.quote(bundle))}</code><br>"
    elif figures.promised is None:
        yield "Say which images show the same part (holdout.group), and train again.<br>"
    elif not figures.look_at:
        yield "See its report.<br>"
    if figures.needed and figures.promised is not None:
        yield (
            f"<small>The share that you asked for needs {counted(figures.needed, 'good part')} that the training has not used: "
            "run anoseg-train calibrate with their images.</small>"
        )
    if figures.defects.startswith("synthetic"):
        yield "<small>Photograph some 20 defective parts: put them into test/&lt;defect&gt;.</small>"
    if account.restarts:
        why = account.restarts[-1].splitlines()[0]
        yield f"<small>Started again {counted(len(account.restarts), 'time')}: {escape(why)}</small>"


def _why_not(account: Account) -> str:
    if account.why:
        return account.why
    if account.status is not None and account.status.step:
        return f"At step {account.status.step} of its training. The same command goes on."
    return "Not trained yet. The same command trains it." if account.phase != "training" else "In training."


def _log(account: Account, work: Path) -> str:
    path = account.training.work / "fit.log"
    return f"log: {shown_name(path.relative_to(work))}" if path.is_file() else ""


def _link(path: Path, work: Path) -> str:
    return escape(quote(os.fsencode(path.relative_to(work))))


def _picture(account: Account) -> str:
    """Show the product by a golden image of its bundle; nothing if there is none."""
    figures = figures_of(account)
    if figures is None:
        return ""
    try:
        image = read_image(account.training.out / str(figures.version) / "golden" / "00.png")
    except (AnosegError, cv2.error):
        return ""
    return picture_html(image, PICTURE / max(image.shape[:2]))


def failures(accounts: Sequence[Account]) -> str:
    """Name the products that failed, each with the first line of its reason."""
    failed = [account for account in accounts if account.phase == "failed"]
    lines = [f"  {account.training.name}: {account.reason}" for account in failed]
    return "\n".join([f"{counted(len(failed), 'product')} {agreeing(len(failed), 'has', 'have')} failed:", *lines])
