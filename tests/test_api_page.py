"""docs/api.md is what `docs/make_api.py` makes of `__all__` and docstrings today."""

import importlib
import re
import runpy

from helpers.paths import ROOT

import loradet


def test_the_page_is_current_and_whole():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert text == runpy.run_path(str(ROOT / "docs" / "make_api.py"))["page"](), "run: python docs/make_api.py"
    rows = re.findall(r"^\| `(.+?)` \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 100 and not [name for name, what in rows if not what.strip()]


def test_it_names_what_packages_say_is_public():
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", (ROOT / "docs" / "api.md").read_text(), re.S | re.M))
    assert {"loradet", "loradet.adapters", "loradet.errors", "loradet.evaluation.coco_metrics"} <= set(sections)
    for name in ("loradet", "loradet.adapters", "loradet.datasets", "loradet.inference"):
        named = set(re.findall(r"^\| `(\w+)", sections[name], re.MULTILINE)) - {"name"}
        assert named == set(importlib.import_module(name).__all__) - {"__version__"}
    assert "`load(weights, config_file=None, *," in sections["loradet"] and loradet.load.__doc__.startswith("Load a ")
