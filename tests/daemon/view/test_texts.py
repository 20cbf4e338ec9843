"""The page's files: texts in every language, nothing from the internet, no code inside HTML."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from support.paths import REPOSITORY

import anosegd.view
from anosegd import wire

PAGE = Path(anosegd.view.__file__).parent / "page"
LANGUAGES = {path.stem: json.loads(path.read_text()) for path in PAGE.glob("*.json")}
SCRIPTS = "\n".join(path.read_text() for path in PAGE.glob("*.js") if path.name != "uplot.js")
HTML = sorted(PAGE.glob("*.html"))


def test_languages_have_the_same_texts() -> None:
    """English and German have the same keys, with the same places for values."""
    assert LANGUAGES.keys() == {"en", "de"}
    places = {
        code: {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in texts.items()} for code, texts in LANGUAGES.items()
    }
    assert places["de"] == places["en"]
    assert all(text.strip() for texts in LANGUAGES.values() for text in texts.values())


def test_every_used_text_exists() -> None:
    """Each key that a script or a page names is in the catalogue, and each text is used."""
    texts = LANGUAGES["en"].keys()
    used = set(re.findall(r'\bt\("([\w.]+)"', SCRIPTS))
    used |= {key for path in HTML for key in re.findall(r'data-(?:text|label)="([\w.]+)"', path.read_text())}
    assert used <= texts
    chosen = set(re.findall(r'"([a-z]+\.[a-z.]+)"', SCRIPTS))  # one of several
    built = tuple(re.findall(r"`(\w+\.)\$\{", SCRIPTS))
    assert {key for key in texts - used - chosen if not key.startswith(built)} == set()


def test_every_reason_and_state_has_a_text() -> None:
    """No reason, outcome or state of the wire is shown as a bare word of the protocol."""
    for texts in LANGUAGES.values():
        assert {f"reason.{reason}" for reason in get_args(wire.Reason)} <= texts.keys()
        assert {f"state.{state}" for state in get_args(wire.StationState)} <= texts.keys()
        assert {f"outcome.{outcome}" for outcome in get_args(wire.Outcome)} <= texts.keys()


def test_what_the_station_refuses_is_said_in_the_language_of_the_page() -> None:
    """Every error code of the station has a text; only its reason may be quoted, and German says that it is English."""
    table = (REPOSITORY / "docs" / "wire.md").read_text().partition("### Error codes")[2].partition("\n\nA page")[0]
    codes = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) - {"bad_request"}  # which would be a mistake of the page
    assert "refused" in codes
    for language, texts in LANGUAGES.items():
        assert {f"error.{code}" for code in {*codes, "other"}} <= texts.keys()
        quoting = [text for text in texts.values() if "{reason}" in text]
        assert language == "en" or all("auf Englisch: {reason}" in text for text in quoting if "Grund" in text)


@pytest.mark.parametrize("path", HTML, ids=lambda path: path.name)
def test_pages_hold_no_code(path: Path) -> None:
    """No inline script, style or handler, which the Content-Security-Policy would refuse, and no other host."""
    text = path.read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text) == []
    assert re.findall(r"https?://", text) == []


@pytest.mark.parametrize("path", sorted(PAGE.glob("*.css")), ids=lambda path: path.name)
def test_style_sheets_close_what_they_open(path: Path) -> None:
    """Every block is closed, where it was opened at the margin: else the rules below hold for one width of window only."""
    depth = 0
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if re.match(r"[.#a-z:@*]", line) and line.rstrip().endswith(("{", "}")):
            assert depth == 0, f"line {number} is inside a block that begins above"
        depth += line.count("{") - line.count("}")
    assert depth == 0


def test_scripts_make_no_html_from_text() -> None:
    """Text from the line reaches the page through textContent only."""
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", SCRIPTS) == []
    assert set(re.findall(r'https?://[^"]+', SCRIPTS)) <= {"http://www.w3.org/2000/svg"}
