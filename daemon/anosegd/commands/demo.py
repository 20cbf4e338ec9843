"""Runs `anosegd demo`: inspects the simulated line and compares the verdicts with the truth."""

from __future__ import annotations

import argparse

from anoseg_engines.result_files import try_folder
from anosegd.demo.run import run_demo


def main(options: argparse.Namespace) -> int:
    """Run the demo; return 1 if a part received no verdict.

    Raises:
        ConfigError: Nothing can be written in the folder.
    """
    try_folder(options.out, "--out")
    return run_demo(options.out, parts=options.parts, fps=options.fps, seed=options.seed, bundle=options.bundle)
