"""Trainings that are killed at every file that they commit, and at random: docs/reliability.md says what came of it."""

import loradet  # noqa: F401  (makes `import detectron2` work before any module imports it)
