"""Where the files of the repository are."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
TEST_CONFIGS = TESTS / "configs"
