"""Adds `--version` and `--print-completion` to the commands of all three packages.

The libraries for these options are imported only when one of the two options is used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add `--version` and `--print-completion bash|zsh` to a command's main parser."""
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh"),
        metavar="SHELL",
        help="print a completion script for bash or zsh",
    )


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from anoseg_engines.version import installed_version

        sys.stdout.write(f"{parser.prog} {installed_version()}\n")
        parser.exit()


class _PrintCompletion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, shell: Any, _: Any = None) -> None:
        import shtab

        _complete_files(parser)
        sys.stdout.write(shtab.complete(parser, shell) + "\n")
        parser.exit()


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Have arguments of type `Path` complete to files."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
