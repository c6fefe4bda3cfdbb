"""The HTML report: it needs nothing but itself, and a browser draws it."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest
from helpers.report_runs import absent, entry, finished, reported, study

from loradet.experiments.pages.report import write_report

PROBE = entry("E1", seeds=(0, 1), method="linear probe")
LORA = entry("E2", title="<i>LoRA</i> & more", method="LoRA", baselines=("E1",), reported=reported("val", 0.6))
MISSING = entry("E3")
PLOTS = 5  # AP against parameters and memory, per class, and two curves; no entry has a rank

# Runs in the page after it is loaded; what it finds comes back in an attribute.
PROBE_SCRIPT = """
addEventListener("load", async () => {
  const found = {problems: window.problems, images: []};
  const seen = row => row.getBoundingClientRect().height > 0;
  for (const image of document.images) {
    await image.decode();
    const box = image.getBoundingClientRect(), canvas = document.createElement("canvas");
    canvas.width = 200; canvas.height = 120;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, 200, 120);
    const data = context.getImageData(0, 0, 200, 120).data, colors = new Set();
    for (let i = 0; i < data.length; i += 4) colors.add(data.slice(i, i + 4).join());
    found.images.push({width: box.width, height: box.height, colors: colors.size});
  }
  const rows = table => [...table.tBodies[0].rows].filter(seen);
  found.tables = [...document.querySelectorAll("table")].map(table => rows(table).length);
  const column = name => [...document.querySelectorAll("th")].find(head => head.textContent === name);
  const ids = () => rows(column("AP").closest("table")).map(row => row.cells[0].textContent);
  column("AP").click(); found.rising = ids();
  column("AP").click(); found.falling = ids();
  const input = document.querySelector("input");
  input.value = "lora"; input.dispatchEvent(new Event("input")); found.filtered = ids();
  document.body.dataset.found = JSON.stringify(found);
});
"""
CATCH_SCRIPT = """
window.problems = [];
addEventListener("error", event => problems.push(event.message || event.target.outerHTML.slice(0, 80)), true);
console.error = (...words) => problems.push(words.join(" "));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    runs = [
        *(finished(root, PROBE, seed, ap, trainable=9_403_000) for seed, ap in ((0, 0.41), (1, 0.42))),
        finished(root, LORA, 0, 0.52),
        absent(root, MISSING, 0, state="failed", detail="<script>alert(1)</script>"),
    ]
    write_report(study(PROBE, LORA, MISSING), runs, root / "report")
    return root / "report" / "report.html"


class Reader(HTMLParser):
    """Collects what a page would fetch, its rows and whether its tags are closed."""

    VOID = {"meta", "link", "img", "input", "source"}

    def __init__(self, text: str):
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_file_needs_nothing_but_itself(page):
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert reader.open == []
    assert len(reader.fetched) == PLOTS + 2  # an icon, and the first plot for narrow screens too
    assert all(value.startswith("data:") for value in reader.fetched)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest", text)
    assert reader.tags.count("script") == 1  # what a run says of itself is text


def test_missing_runs_are_rows(page):
    text = unescape(page.read_text(encoding="utf-8"))
    assert "<td>E3</td><td>Experiment E3</td>" in text
    assert "0 of 1; seed 0 failed" in text


def test_a_browser_draws_it(page, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is installed")
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", f"<head><script>{CATCH_SCRIPT}</script>", 1)
    text = text.replace("</body>", f"<script>{PROBE_SCRIPT}</script></body>", 1)
    probed = tmp_path / "probed.html"
    probed.write_text(text, encoding="utf-8")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1400,2000", "--virtual-time-budget=20000", "--dump-dom", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    held = re.search(r'data-found="([^"]*)"', done.stdout)
    assert held, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(unescape(held[1]))
    assert found["problems"] == []
    assert len(found["images"]) == PLOTS
    for image in found["images"]:
        assert image["width"] > 300
        assert image["height"] > 200
        assert image["colors"] > 20
    # Precision, recall, both by class; one difference; costs of two; four runs.
    assert found["tables"] == [3, 3, 3, 3, 1, 2, 4]
    assert found["rising"] == ["E1", "E2", "E3"]  # what has no number is last either way
    assert found["falling"] == ["E2", "E1", "E3"]
    assert found["filtered"] == ["E2"]
