"""The documentation as text: it builds without a warning, its links lead somewhere, its tables equal the code."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from support.documentation import DOCS, README, TEXTS, anchors, links, table
from support.paths import REPOSITORY

from anosegd import cli, wire
from anosegd.config import REMOVED
from anosegd.control import requests, server

WIRE = DOCS / "wire.md"
OPERATING = DOCS / "operating.md"


def test_docs_build_without_a_warning(tmp_path: Path) -> None:
    """`make docs` succeeds: every page is reachable, every cross reference resolves."""
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (built.returncode, built.stderr) == (0, "")
    assert (tmp_path / "index.html").is_file()


def test_readme_is_short() -> None:
    """The README stays a page for newcomers."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 220


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file or a heading of the checkout finds it."""
    broken = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    assert not broken


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """The structs of the published headers, by name, as JSON Schema."""
    return {name: struct for schema in wire.schemas().values() for name, struct in schema["$defs"].items()}


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("verdict", "Verdict"),
        ("Defects", "Defect"),
        ("Timings", "Timings"),
        ("Engine", "EngineName"),
        ("mask", "Mask"),
        ("image", "Image"),
        ("state", "State"),
        ("Camera health", "CameraHealth"),
        ("Journal health", "JournalHealth"),
        ("Evidence health", "EvidenceHealth"),
        ("Threshold", "ThresholdInUse"),
        ("Pause", "Pause"),
        ("Recipe health", "RecipeHealth"),
    ],
)
def test_header_fields_equal_the_code(schemas: dict[str, Any], heading: str, struct: str) -> None:
    """docs/wire.md names every field of every header, and no other, in the order in which they are published."""
    assert [row[0].strip("`") for row in table(WIRE, heading)] == list(schemas[struct]["properties"])


def reasons_of(schemas: dict[str, Any]) -> list[str]:
    """The reasons for UNKNOWN that a verdict can have."""
    return next(kind["enum"] for kind in schemas["Verdict"]["properties"]["reason"]["anyOf"] if "enum" in kind)


def test_reasons_equal_the_code(schemas: dict[str, Any]) -> None:
    """docs/wire.md explains every reason for UNKNOWN."""
    assert sorted(row[0].strip("`") for row in table(WIRE, "Reasons for UNKNOWN")) == sorted(reasons_of(schemas))


def test_every_reason_is_in_troubleshooting(schemas: dict[str, Any]) -> None:
    """docs/troubleshooting.md says what to do about every reason for UNKNOWN."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert [reason for reason in reasons_of(schemas) if f"`UNKNOWN: {reason}`" not in text] == []


def test_removed_keys_are_in_the_changelog() -> None:
    """CHANGELOG.md names every configuration key that the daemon refuses as removed."""
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [key for keys in REMOVED.values() for key in keys if not re.search(rf"`([a-z]+\.)?{key}`", text)] == []


def test_requests_equal_the_code() -> None:
    """docs/wire.md names every request with its fields."""
    known = {}
    for request in get_args(requests.Request):
        fields = [field.encode_name for field in msgspec.structs.fields(request) if field.name != "id"]
        known[str(request.__struct_config__.tag)] = fields
    documented = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in table(WIRE, "Requests")}
    assert documented == known


def test_requests_name_the_key_that_they_need() -> None:
    """docs/wire.md says of every request which key may send it."""
    reads = {str(request.__struct_config__.tag) for request in server.READS}
    documented = {row[0].strip("`"): row[2] for row in table(WIRE, "Requests")}
    assert documented == {op: "any" if op in reads else "control" for op in documented}


def test_fields_of_requests_are_explained() -> None:
    """docs/wire.md says of every field what its values are."""
    known = {field.encode_name for request in get_args(requests.Request) for field in msgspec.structs.fields(request)}
    explained = {name for row in table(WIRE, "Fields of requests") for name in re.findall(r"`(\w+)`", row[0])}
    assert explained == known - {"id"}


def test_error_codes_equal_the_code() -> None:
    """docs/wire.md explains every error code of the control socket."""
    source = "".join(path.read_text() for path in Path(requests.__file__).parent.glob("*.py"))
    codes = {row[0].strip("`") for row in table(WIRE, "Error codes")}
    raised = set(re.findall(r'RefusedError\(\s*"(\w+)"', source)) | set(re.findall(r'error_reply\([^"\n]*, "(\w+)"', source))
    assert codes == raised


def test_settings_of_the_unit_are_as_the_page_says() -> None:
    """Each setting that docs/operating.md explains is in the unit."""
    unit = (REPOSITORY / "systemd" / "anosegd@.service").read_text().splitlines()
    settings = [setting for row in table(OPERATING, "What the unit sets") for setting in re.findall(r"`(\w+=[^`]+)`", row[0])]
    assert settings
    assert [setting for setting in settings if setting not in unit] == []


def test_log_events_equal_the_code() -> None:
    """docs/operating.md lists every event that the daemon logs."""
    source = "".join(path.read_text() for path in (REPOSITORY / "daemon" / "anosegd").rglob("*.py"))
    logged = set(re.findall(r'(?:logs\.(?:info|warning|error)|\blog|Throttles?)\(\s*f?"([a-z]+\.[a-z_{}]+)"', source))
    assert "camera.{state}" in logged
    logged = (logged - {"camera.{state}"}) | {"camera.running", "camera.finished", "camera.stopped"}
    documented = {event for row in table(OPERATING, "Log events") for event in re.findall(r"`([a-z]+\.[a-z_]+)`", row[0])}
    assert documented == logged


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    """Each message that docs/troubleshooting.md quotes in its first column is in the code, apart from what … stands for."""
    sources = [path.read_text() for name in ("daemon", "engines", "trainer") for path in (REPOSITORY / name).rglob("*.py")]
    joined = re.sub(r'"\s*\n\s*f?"', "", "".join(sources))  # a message over several lines
    rows = re.findall(r"^\| (.+?) \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    quoted = [message for row in rows for message in re.findall(r"`([^`]+ [^`]+)`", row) if not message.startswith("UNKNOWN")]
    assert len(quoted) > 10
    pieces = [piece.strip() for message in quoted for piece in message.split("…")]
    assert not [piece for piece in pieces if piece not in joined]


def test_paths_of_the_design_page_exist() -> None:
    """Every file and folder that docs/design.md names is there; a section may say below which folder."""
    missing = []
    for section in re.split(r"^## ", (DOCS / "design.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        below = re.findall(r"`([\w/]+)`", "".join(re.findall(r"^Paths are relative to .*$", section, flags=re.MULTILINE)))
        folders = (REPOSITORY, *(REPOSITORY / folder for folder in below))
        named = {word for word in re.findall(r"`([\w./@-]+)`", section) if "/" in word or word.endswith(".py")}
        missing += [word for word in named if not any((folder / word).exists() for folder in folders)]
    assert not missing


def test_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`anosegd schema` prints the schema that the page names."""
    assert cli.run(["schema"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"verdict", "mask", "image", "state"}
