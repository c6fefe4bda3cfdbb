"""The benchmark of onnxruntime against torch runs, on detections that are equal."""

import pytest

from loradet.benchmarks import onnx_speed


@pytest.mark.slow
def test_figures(capsys):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'loradet[onnx]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'loradet[onnx]'")
    words = ["--config-file", "quickstart.py", "--size", "64", "96", "--pairs", "2", "--cpu-time"]
    onnx_speed.main([*words, "data.classes=[a,b,c,d,e,f]"])
    figures = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(figures["compared_detections"]) > 0 and int(figures["pairs"]) == 2
    assert float(figures["torch_ms"]) > 0 and float(figures["onnx_ms"]) > 0 and float(figures["median_ratio"]) > 0


def test_no_pairs_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        onnx_speed.main(["--pairs", "0"])
    assert stopped.value.code == 2 and "--pairs 0: expected at least 1" in capsys.readouterr().err
