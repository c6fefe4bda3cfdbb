"""The files for rented machines: what SkyPilot and Hugging Face Jobs themselves say of them, without an account."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from helpers.paths import ROOT

from loradet.config import load_config

EXAMPLES = ROOT / "docs" / "examples"
SKY_TASK = """
import sys, yaml, sky
from sky.utils import common_utils, schemas
content = yaml.safe_load(open(sys.argv[1]))
common_utils.validate_schema(content, schemas.get_task_schema(), "")
content["envs"]["MIRROR"] = "s3://bucket/runs/mine"
(resources,) = sky.Task.from_yaml_config(content).resources
assert resources.use_spot and resources.job_recovery["strategy"] == "EAGER_NEXT_REGION"
"""


@pytest.mark.slow
def test_skypilot_takes_its_file(tmp_path):
    python = os.environ.get("SKYPILOT_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import sky"], capture_output=True).returncode:
        pytest.skip("no SkyPilot; SKYPILOT_PYTHON names an interpreter that has it")
    subprocess.run([python, "-c", SKY_TASK, EXAMPLES / "skypilot.yaml"], check=True, cwd=tmp_path)


def test_the_lines_of_its_file_are_bash():
    lines = re.findall(
        r"^(?:setup|run): \|\n((?:(?:  .*)?\n)+)", (EXAMPLES / "skypilot.yaml").read_text(), re.MULTILINE
    )
    assert len(lines) == 2
    for text in (*lines, (EXAMPLES / "hf_job.sh").read_text()):
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["skypilot.yaml", "hf_job.sh"])
def test_the_keys_of_its_overrides_exist(name):
    words = re.findall(r"(?:data|train)\.[\w.]+=", (EXAMPLES / name).read_text())
    assert len(words) >= 3
    load_config("custom_coco", [f"{word}x/y" for word in words])


def hf_command() -> list[str]:
    """The words of `hf jobs run` as the page has them."""
    (text,) = re.findall(r"^    (hf jobs run --detach.*?)\n\n", (ROOT / "docs" / "hf_jobs.md").read_text(), re.M | re.S)
    return shlex.split(text.replace('"$(cat docs/examples/hf_job.sh)"', "SCRIPT").replace("\\\n", " "))


@pytest.mark.skipif(int(huggingface_hub.__version__.partition(".")[0]) < 2, reason="of huggingface_hub 2")
def test_hugging_face_takes_its_command():
    words = hf_command()
    assert words[:3] == ["hf", "jobs", "run"]

    def dry_run(*options: str) -> subprocess.CompletedProcess:
        hf = [Path(sys.executable).with_name("hf"), "jobs", "run", "--dry-run", *options]
        return subprocess.run(hf, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    done = dry_run(*words[3:])
    assert done.returncode == 0, done.stderr
    assert "bash -c SCRIPT" in done.stdout and "Job not submitted" in done.stdout
    assert re.search(r"attempts\s+3\b", done.stdout) and "datasets/USER/my_data:/data" in done.stdout
    # A word that is no option would be taken for the image.
    assert re.search(r"image\s+python:3\.12\n", done.stdout) and re.search(r"timeout\s+8h", done.stdout)
    assert dry_run(*["none" if word == "3" else word for word in words[3:]]).returncode != 0


@pytest.mark.parametrize(
    ("known", "status", "expected"),
    [
        ("True", 0, ["pip", "hf download USER/mine --local-dir", "loradet train --config-file custom_coco --resume"]),
        ("False", 0, ["pip", "loradet train --config-file custom_coco --resume"]),
        ("", 1, ["pip"]),  # the Hub cannot be asked
    ],
)
def test_the_job_goes_on_with_what_there_is(tmp_path, known, status, expected):
    for name in ("pip", "hf", "loradet", "python"):
        tool = tmp_path / name
        says = f"echo {known}; exit {status}" if name == "python" else f'echo {name} "$@" >> "{tmp_path}/log"'
        tool.write_text(f"#!/bin/bash\n{says}\n")
        tool.chmod(0o755)
    variables = {
        "REPO": "USER/mine",
        "CONFIG": "custom_coco",
        "LORADET": "loradet",
        "OVERRIDES": "train.max_iter=5 a=b",
    }
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
    script = (EXAMPLES / "hf_job.sh").read_text()
    done = subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.startswith(start) for line, start in zip(lines, expected, strict=True)] == [True] * len(expected)
    if status == 0:
        folder = Path(tmp_path) / "runs" / "mine"
        words = f"train.output_dir={folder} train.hub.repo_id=USER/mine train.max_iter=5 a=b"
        assert lines[-1].endswith(words) and (known == "False" or lines[-2].endswith(str(folder)))
