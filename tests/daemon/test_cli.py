"""The command line itself: completion and version."""

import subprocess

import pytest
from support.anosegd_line import run_anosegd

from anosegd.cli import run


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_script_is_accepted_by_its_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--print-completion` prints a script that names every command and that the shell can parse."""
    with pytest.raises(SystemExit) as ended:
        run(["--print-completion", shell])
    script = capsys.readouterr().out
    assert ended.value.code == 0
    for words in ("trigger", "demo-images", "--bundle", "--print-completion"):
        assert words in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_bash_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    """The script, loaded into bash, turns `anosegd swap --b` into `--bundle`."""
    with pytest.raises(SystemExit):
        run(["--print-completion", "bash"])
    asked = 'COMP_WORDS=(anosegd swap --b); COMP_CWORD=2; _shtab_anosegd; echo "${COMPREPLY[@]}"'
    script = capsys.readouterr().out
    done = subprocess.run(["bash", "-c", script + asked], text=True, capture_output=True)
    assert done.stdout.strip() == "--bundle"


def test_version() -> None:
    """`anosegd --version` names the program and its version on stdout."""
    done = run_anosegd("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("anosegd ")
    assert done.stdout.split()[1][0].isdigit()
