"""Region rules and the band in which a person looks, through the real daemon."""

import cv2
from anosegd_line import Line, run_anosegd
from tiny_bundle import bad_part, good_part

FOLDER = "top:\n  source: {kind: folder, path: images}\n  policy: wait\n"
WHOLE = "  region: {x: 0, y: 0, width: 80, height: 48}\n"


def inspect(line: Line, more: str) -> list[dict[str, object]]:
    """Verdicts of a good part and of one with a white spot at x 20…39, y 10…29."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    cv2.imwrite(str(line.folder / "images" / "1.png"), bad_part())
    daemon = line.run(line.config(FOLDER + more), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    return line.listener.verdicts


def test_a_defect_where_nobody_looks(line: Line) -> None:
    """In an ignored region it is PASS though the score is high; the state says what such rules cost."""
    verdicts = inspect(
        line, WHOLE + "  rules:\n    - {name: label, region: {x: 10, y: 0, width: 40, height: 40}, ignore: true}\n"
    )
    assert [(v["outcome"], v["threshold"]) for v in verdicts] == [("PASS", None), ("PASS", None)]
    assert float(str(verdicts[1]["score"])) > 0.9
    assert "not calibrated for these rules" in line.listener.last_state()["cameras"]["top"]["note"]


def test_a_defect_that_is_large_enough(line: Line) -> None:
    """The rule that found it is named in the verdict."""
    verdicts = inspect(line, WHOLE + "  rules: [{name: whole, min_area: 300}]\n")
    assert [v["outcome"] for v in verdicts] == ["PASS", "FAIL"]
    assert [d["rule"] for d in verdicts[1]["defects"]] == ["whole"]  # type: ignore[attr-defined]


def test_a_person_looks(line: Line) -> None:
    """A score in the band is UNKNOWN: review, with its score and defects; FAIL stays FAIL."""
    verdicts = inspect(line, "  review_from: 0.01\n")
    assert [(v["outcome"], v["reason"]) for v in verdicts] == [("UNKNOWN", "review"), ("FAIL", None)]
    assert verdicts[0]["score"] is not None


def test_check_refuses_a_rule_beside_the_part(line: Line) -> None:
    """Said when the configuration is checked, with the camera's and the rule's names; exit code 2."""
    config = line.config(
        "top:\n  source: {kind: demo}\n" + WHOLE + "  rules: [{name: far, region: {x: 500, y: 0, width: 9, height: 9}}]\n"
    )
    done = run_anosegd("check", str(config))
    assert done.returncode == 2
    assert "cameras.top: rule 'far'" in done.stderr
