import argparse
import importlib
import os
import subprocess
import sys

import pytest
from support.anoseg_train_command import COMMAND, ENVIRONMENT, run_process

from anoseg_trainer.cli import build_parser, run

HEAVY = ("torch", "sklearn", "scipy", "openvino", "cv2", "numpy", "matplotlib", "onnx")


def test_the_parser_needs_no_large_library():
    """`--help` and wrong arguments do not wait for PyTorch and the like."""
    code = f"import sys, anoseg_trainer.cli as c; c.build_parser(); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_each_command_has_its_module():
    """The command NAME is `run` of commands/NAME.py, with _ for -."""
    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert sorted(commands.choices) == ["ablate", "bench", "calibrate", "compare", "evaluate", "fit", "fleet", "learn-good"]
    for name in commands.choices:
        assert callable(importlib.import_module(f"anoseg_trainer.commands.{name.replace('-', '_')}").run)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("fit --data d --out s/n --steps 0", "'0' is not a whole number above 0"),
        ("fit --data d --out s/n --minutes nan", "'nan' is not a number above 0"),
        ("fit --data d --out s/n --seed -1", "'-1' is not a whole number from 0"),
        ("calibrate --bundle b --data d --false-reject 1", "'1' is not a share between 0 and 1"),
        ("calibrate --bundle b --data d --false-reject many", "'many' is not a number"),
        ("calibrate --bundle b --data d --camera top", "--config and --camera belong together"),
        ("bench --bundle b --seconds 0", "'0' is not a number above 0"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(arguments, said, capsys):
    """Exit code 2, and the argument named."""
    with pytest.raises(SystemExit) as end:
        run(arguments.split())
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit --out s/n --data", "calibrate --bundle b --data", "ablate --out o --data"])
def test_a_process_ends_with_the_errors_exit_code(command, tmp_path):
    """As the shell sees it: exit code 2, one message on stderr, no traceback."""
    done = run_process(*command.split(), tmp_path / "none")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("anoseg-train: ")
    assert "Traceback" not in done.stderr


def test_without_pytorch_the_command_that_installs_it_is_said(tmp_path):
    """As in the environment of `make demo`, which does not train."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')\n")
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join((str(tmp_path), ENVIRONMENT["PYTHONPATH"]))}
    done = subprocess.run(
        [*COMMAND, "ablate", "--data", "x", "--out", "o"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "'.[train]'" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_commands_and_options(shell, capsys):
    """The completion script knows the commands and their options."""
    with pytest.raises(SystemExit) as end:
        run(["--print-completion", shell])
    assert end.value.code == 0
    script = capsys.readouterr().out
    assert "calibrate" in script
    assert "--false-reject" in script
