"""What `import loradet` costs."""

import statistics
import subprocess
import sys

import pytest

MEASURE = """
import time
{before}
start = time.perf_counter()
import loradet
print(time.perf_counter() - start)
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_it_imports_neither_torch_nor_detectron2():
    heavy = "{'torch', 'detectron2', 'timm', 'numpy', 'cv2'}"
    assert run(f"import sys, loradet; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


def test_subpackages_that_need_no_torch_import_none():
    names = ["loradet.visualization", "loradet.evaluation", "loradet.datasets", "loradet.files"]
    code = f"import sys, {', '.join(names)}; print(sorted({{'torch', 'detectron2'}} & set(sys.modules)))"
    assert run(code) == "[]\n"


def test_a_training_imports_nothing_to_draw_with():
    code = "import sys, loradet.training.command; print(sorted({'matplotlib', 'scipy.optimize'} & set(sys.modules)))"
    assert run(code) == "[]\n"


@pytest.mark.parametrize("before", ["", "import torch"])
def test_it_is_quick(before):
    seconds = statistics.median(float(run(MEASURE.format(before=before))) for _ in range(5 if not before else 3))
    assert seconds < 0.3
