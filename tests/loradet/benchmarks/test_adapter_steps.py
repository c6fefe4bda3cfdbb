import pytest

from loradet.benchmarks.adapter_steps import ADAPTERS, main


@pytest.mark.parametrize(
    "adapter", ["mona", *(pytest.param(n, marks=pytest.mark.slow) for n in ADAPTERS if n not in ("mona", "lora"))]
)
def test_steps_of_two_adapters_are_compared(adapter, capsys):
    words = ["--size", "32", "--batch", "1", "--pairs", "1", "--rank", "2", "--block-rank", "3", "--cpu-time"]
    main(["--model", "convnext_atto", "--adapter", adapter, *words])
    figures = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(figures["largest_difference"]) <= 1e-5 and float(figures["median_ratio"]) > 0
    channels = [40] * 2 + [80] * 2 + [160] * 6 + [320] * 2
    assert float(figures["against_trainable"]) == pytest.approx(sum(2 * 2 * 5 * c for c in channels), rel=1e-3)
    if adapter == "mona":
        count = sum((2 * 3 + 3) * c + 3 * 3 + 84 * 3 + 2 for c in channels)
        assert float(figures["trainable"]) == pytest.approx(count, rel=1e-3)
