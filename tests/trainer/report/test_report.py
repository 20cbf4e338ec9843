import cv2
import numpy as np
import pytest
from support.anoseg_train_command import run
from support.tiny_bundle import bad_part, good_part, write_tiny_bundle

from anoseg_engines.errors import AnosegError
from anoseg_trainer.report.charts import histogram, line_chart
from anoseg_trainer.report.html import Report, ReportCase, extremes


def test_what_is_written_is_escaped_and_whole(tmp_path):
    """Names from the user's files cannot break the page, and the file is there whole."""
    picture = np.zeros((40, 60, 3), np.uint8)
    case = ReportCase("<b>&", picture, np.full((40, 60), 0.5, np.float32), np.ones((40, 60), bool))
    report = Report(
        "<script>\udcff", notes=["a < b"], tables={"t": [["", "x"], ["<i>", "1"]]}, cases={"c": [case]}, settings={"k": [1]}
    )
    report.write(tmp_path / "new" / "report.html")
    text = (tmp_path / "new" / "report.html").read_text()
    assert text.endswith("</html>\n")
    assert "<script>" not in text
    assert "<i>" not in text
    assert text.count("data:image/png") == 3
    assert not list((tmp_path / "new").glob(".*"))


def test_it_fits_a_phone():
    """The page is as wide as the window: the first screen's columns stand one below the other, and a wide table scrolls."""
    text = Report("x", tables={"t": [["a"] * 12, ["1"] * 12]}, charts={"c": "<svg></svg>"}).html()
    assert '<meta name="viewport" content="width=device-width' in text
    assert "@media (max-width: 700px) { .groups { grid-template-columns: 1fr;" in text
    assert '<div class="wide"><table>' in text
    assert "svg { max-width: 100%;" in text


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    """A file in the folder's place is an error in words."""
    (tmp_path / "file").write_text("")
    with pytest.raises(AnosegError, match="cannot be written"):
        Report("x").write(tmp_path / "file" / "report.html")


def test_charts_draw_every_line_and_mark_and_survive_no_data():
    """Each line, its name and the threshold are drawn in; no data, or one point, is no crash."""
    chart = line_chart({"one": [(0.1, 0.2), (0.5, 0.4)], "<two>": [(0.1, 0.2)]}, "t", "IoU", {"threshold": 0.5})
    assert chart.startswith("<svg")
    assert chart.count('id="line-') == 2
    for text in ("one", "&lt;two&gt;", "threshold 0.5", "IoU"):
        assert f">{text}</text>" in chart
    assert "stroke-dasharray" in histogram({"good": [0.1, 0.2], "bad": [1.0]}, "score", {"threshold": 0.5})
    assert "no data" in line_chart({"a": [], "b": [(0.0, float("nan"))]}, "x", "y")
    assert "no data" in histogram({"a": []}, "x", {})


def test_charts_refer_to_nothing_and_are_the_same_each_time():
    """No web address, not even of a name space; the same data gives the same text."""
    charts = [histogram({"good": [0.1, 0.2], "bad": [1.0]}, "score", {"threshold": 0.5}) for _ in range(2)]
    assert charts[0] == charts[1]
    assert "://" not in charts[0]


def test_extremes_are_told_apart():
    """Lowest and highest places; with few cases none is shown twice."""
    assert extremes([0.3, 0.1, 0.9, 0.5], 2) == ([1, 0], [2, 3])
    assert extremes([0.3], 4) == ([0], [])
    assert extremes([], 4) == ([], [])


def test_every_image_has_a_picture_of_its_own(tmp_path):
    """Whatever defects and images are called: `a_b` with `c.png`, and `a` with `b_c.png`."""
    write_tiny_bundle(tmp_path / "tiny")
    images = {"good/g.png": good_part(), "a_b/c.png": bad_part(), "a/b_c.png": bad_part()}
    for name, image in images.items():
        defect, file = name.split("/")
        for folder in ("test", "ground_truth"):
            (tmp_path / "data" / folder / defect).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / "test" / name), image)
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[:9, :9] = 255
        cv2.imwrite(str(tmp_path / "data" / "ground_truth" / defect / file.replace(".", "_mask.")), mask)
    options = ("--all-overlays", tmp_path / "all", "--runtime", "cpu-f32")
    done = run("evaluate", "--bundle", tmp_path / "tiny", "--data", tmp_path / "data", *options)
    assert done.returncode == 0, done.stderr
    assert {path.relative_to(tmp_path / "all").as_posix() for path in (tmp_path / "all").rglob("*.png")} == set(images)
