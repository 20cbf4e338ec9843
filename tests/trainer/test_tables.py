import io

from rich.console import Console

from anoseg_trainer.evaluation import ESCAPE_HEAD, METRICS
from anoseg_trainer.tables import table


def printed(head, rows):
    file = io.StringIO()
    Console(file=file, width=80).print(table(head, rows, total=True))
    return file.getvalue()


def test_names_stay_whole_at_80_columns():
    """Names of defects are neither cut nor broken; brackets in them are no markup."""
    names = ["manipulated_front_left_side", "dent [A]", "all"]
    for head in (ESCAPE_HEAD, ["defect", *METRICS.values()]):
        text = printed(head, [[name, *["166 (42.3 %)"] * (len(head) - 1)] for name in names])
        assert all(name in text for name in names)
        assert max(len(line) for line in text.splitlines()) <= 80
        assert "…" not in text


def test_a_very_long_name_goes_on_in_the_next_line():
    """Its letters are all there, and so are the figures."""
    name = "a_name_of_a_defect_that_somebody_made_longer_than_the_whole_terminal_is_wide_for_a_reason"
    text = printed(["defect", *METRICS.values()], [[name, *["0.123"] * 5], ["all", *["0.456"] * 5]])
    cells = [line.split("│")[1].strip() for line in text.splitlines() if line.count("│") > 2]
    assert "".join(cells).startswith(name)
    assert text.count("0.123") == 5
