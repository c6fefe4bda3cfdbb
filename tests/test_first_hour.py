"""docs/first_hour.ipynb runs from its first cell to its last, and the page shows what came out."""

import base64
import io
import re

import pytest
from helpers.paths import ROOT
from PIL import Image

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

NOTEBOOK = ROOT / "docs" / "first_hour.ipynb"
MACHINE = re.compile(r"/(home|root|tmp|work|Users|usr)/|site-packages")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    streams = [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == "stream"]
    return "".join(output.text for output in streams if output.name == "stdout")


def pictures(notebook):
    found = [output.data["image/jpeg"] for cell in code_cells(notebook) for output in cell.outputs if "data" in output]
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def ap50(notebook):
    """The row of the table at the end, by run."""
    # A stream may come in pieces, and a library may warn beside it.
    outputs = code_cells(notebook)[-1].outputs
    text = "".join(one.text for one in outputs if one.output_type == "stream" and one.name == "stdout")
    names = text.splitlines()[0].split()
    (values,) = re.findall(r"^AP50 \(val\) +(.+)$", text, re.MULTILINE)
    return dict(zip(names, map(float, values.split()), strict=True))


def check_content(notebook):
    text = printed(notebook)
    assert "finds the same: True" in text and "classes: ship, aircraft, car, tank, bridge, harbor" in text
    assert "no problems" in text.splitlines()[1]
    assert set(ap50(notebook)) == {"lora", "linear_probe"}
    (picture,) = pictures(notebook)
    assert picture.width > 800 and len(set(picture.convert("L").tobytes())) > 50


def execute(folder, monkeypatch, parameters=None, timeout=300):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment, whatever the user has
    monkeypatch.setenv("LORADET_CACHE", str(folder / "cache"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if parameters is not None:
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source = parameters
    client = nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def test_it_runs_with_few_pictures_and_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = execute(tmp_path, monkeypatch, "images, steps = 24, 2")
    check_content(notebook)
    assert "24 pictures" in printed(notebook)
    assert (tmp_path / "first_hour" / "shared" / "adapter.safetensors").is_file()


@pytest.mark.slow
def test_it_learns(tmp_path, monkeypatch):
    notebook = execute(tmp_path, monkeypatch, timeout=1800)
    check_content(notebook)
    found = ap50(notebook)
    assert found["lora"] > 0.35 and found["lora"] > found["linear_probe"] > 0.3


def test_the_page_shows_what_came_out():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    check_content(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert NOTEBOOK.stat().st_size < 250_000 and not MACHINE.search(NOTEBOOK.read_text(encoding="utf-8"))
