"""`python -m anosegd` is the command `anosegd`."""

from anosegd.cli import main

main()
