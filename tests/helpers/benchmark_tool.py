"""`tools/benchmark.py` as a module, and what its tests have in common."""

import importlib.util

from helpers.paths import ROOT, TEST_CONFIGS

DETR = str(TEST_CONFIGS / "tiny_detr.py")
RANDOM = ["--random-images", "64", "64", "--objects", "3", "model.num_classes=2", "train.device=cpu"]

_spec = importlib.util.spec_from_file_location("benchmark_tool_module", ROOT / "tools" / "benchmark.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)
