"""The benchmark of the check says figures of both sides."""

from loradet.benchmarks.annotation_check import main


def test_figures_of_both_sides(capsys):
    main(["--images", "30", "--boxes", "200", "--pairs", "2"])
    figures = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(figures["check_s"]) > 0 and float(figures["json_load_s"]) > 0
    assert float(figures["ratio_lower_quartile"]) <= float(figures["median_ratio"])
    assert figures["pairs"] == "2"
