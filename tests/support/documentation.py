"""The README and the pages below docs/ as data: their fenced blocks, tables and links."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.paths import REPOSITORY

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = (README, *sorted(DOCS.glob("*.md")))
TEXTS = (*PAGES, REPOSITORY / "CHANGELOG.md", REPOSITORY / "trainer" / "EXPERIMENTS.md")

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_PROGRAMS = ("anosegd", "anoseg-train", "anoseg-engine")


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is the line of its opening fence, `language` is what stands behind the fence."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One line of a shell block, without its comment.

    Attributes:
        words: As the shell splits it, up to a pipe or `>`, without `sudo`.
        target: The file after a `>`.
    """

    place: str
    line: str
    words: tuple[str, ...]
    target: str | None = None

    @property
    def program(self) -> str | None:
        """Which of the three programs this is, if it is one."""
        return self.words[0] if self.words[0] in _PROGRAMS else None


def blocks(*languages: str, page: Path | None = None) -> list[Block]:
    """The fenced blocks in these languages; all blocks without any."""
    found = [block for path in PAGES if page in (None, path) for block in _blocks(path)]
    return [block for block in found if not languages or block.language in languages]


def commands() -> list[Command]:
    """Every command of every shell block, in the order of the pages."""
    return [command for block in blocks("shell") for command in _commands(block)]


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its header; cells as written."""
    lines = page.read_text(encoding="utf-8").splitlines()
    titles = [n for n, line in enumerate(lines) if line.lstrip("#").strip() == heading and line.startswith("#")]
    assert len(titles) == 1, f"{page.name} has {len(titles)} headings '{heading}'"
    rows = []
    for line in lines[titles[0] + 1 :]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows or line.startswith("#"):
            break
    assert len(rows) > 2, f"{page.name} has no table below '{heading}'"
    return rows[2:]


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Path and anchor of each link to a place in the checkout, outside of fenced blocks."""
    for target in _LINK.findall(re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#{1,6} (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _blocks(page: Path) -> Iterator[Block]:
    opened: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            inside.append(line)
        elif opened is None:
            opened, inside = (number, line.removeprefix("```").split(" ")[0]), []
        else:
            yield Block(page, *opened, "\n".join(inside) + "\n")
            opened = None
    assert opened is None, f"{page}: the block of line {opened} has no end"


def _commands(block: Block) -> Iterator[Command]:
    for offset, line in enumerate(block.text.replace("\\\n", " ").splitlines(), 1):
        split = shlex.split(line, comments=True)
        words = list(itertools.takewhile(lambda word: word not in ("|", ">"), split))
        target = split[-1] if split[-2:-1] == [">"] else None
        if words[:1] == ["sudo"]:
            words = words[3:] if words[1] == "-u" else words[1:]
        if words:
            page = block.place.rpartition(":")[0]
            yield Command(f"{page}:{block.line + offset}", shlex.join(words), tuple(words), target)
