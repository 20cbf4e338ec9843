import pytest

from anoseg_engines.errors import ConfigError
from anoseg_engines.result_files import try_file, try_folder


def test_places_that_can_be_written_are_left_as_they_are(tmp_path):
    """A new file in a new folder, an existing file, a device: accepted, and nothing is created."""
    (tmp_path / "old.json").write_text("kept")
    for path in (tmp_path / "a" / "b" / "new.json", tmp_path / "old.json", "/dev/stdout", None):
        try_file(path and tmp_path / path, "--json")
    try_folder(tmp_path / "x" / "y", "--overlays")
    assert [p.name for p in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "kept"


def test_places_that_cannot_are_named_with_their_option(tmp_path):
    """A folder in place of a file, a file in place of a folder, and a folder that takes no files."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--json .*is a folder"):
        try_file(tmp_path, "--json")
    with pytest.raises(ConfigError, match=r"--report .*file is not a folder"):
        try_file(tmp_path / "file" / "report.html", "--report")
    with pytest.raises(ConfigError, match=r"--out /proc/x: /proc cannot be written"):
        try_folder(tmp_path / "/proc/x", "--out")
