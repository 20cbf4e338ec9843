"""Places in the checkout, so that a test can move without counting folders."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TESTS = REPOSITORY / "tests"
SUPPORT = TESTS / "support"
CONFIGS = REPOSITORY / "configs"
DEMO = REPOSITORY / "engines" / "store" / "demo"
