"""Runs `anosegd demo-images`: renders the images from which the demo's bundle is trained."""

from __future__ import annotations

import argparse
import sys

from anoseg_engines.result_files import try_folder
from anoseg_engines.words import counted
from anosegd.demo.images import write_demo_images


def main(options: argparse.Namespace) -> int:
    """Write the images to a new folder and print their number.

    Raises:
        ConfigError: The folder is not empty, or cannot be written.
    """
    try_folder(options.out, "--out")
    sys.stdout.write(f"{counted(write_demo_images(options.out), 'image')} in {options.out}\n")
    return 0
