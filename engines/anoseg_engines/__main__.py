"""`python -m anoseg_engines` is `anoseg-engine`."""

from anoseg_engines.cli import main

main()
