"""Package metadata; the two packages live under projects/."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent

HAS_WHEELS = (
    "platform_python_implementation == 'CPython' and (sys_platform == 'darwin' or "
    "sys_platform == 'linux' and (platform_machine == 'x86_64' or platform_machine == 'aarch64') or "
    "sys_platform == 'win32' and platform_machine == 'AMD64')"
)


class BuildWithConfigs(build_py):
    """Puts `configs/` into the package; an editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "loradet" / "configs"
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(ROOT / "configs", target, dirs_exist_ok=True, ignore=ignored)


setup(
    name="loradet",
    cmdclass={"build_py": BuildWithConfigs},
    version="0.1.0",
    description="Adapt a frozen foundation backbone to object detection with few trained parameters",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.15",
    package_dir={"": "projects"},
    packages=find_packages("projects"),
    py_modules=["loradet_command"],
    package_data={
        "loradet": ["assets/*", "py.typed"],
        "detectron2_embedded.detectron2.model_zoo": ["configs/**/*.py"],
    },
    entry_points={"console_scripts": ["loradet=loradet_command:main"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "timm>=1.0.20",
        "safetensors>=0.4",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "omegaconf>=2.3",
        "hydra-core>=1.3",
        "pyyaml>=6",
        "huggingface-hub>=0.34",
        "cloudpickle",
        "msgspec>=0.19",
        "pycocotools>=2.0.8",
        # Where they have wheels; elsewhere pycocotools computes the metrics, and Pillow decodes JPEG.
        f"ultrafast-pycocotools>=0.1.14,<0.2; {HAS_WHEELS}",
        f"simplejpeg>=1.8; {HAS_WHEELS}",
        "numpy>=1.26",
        "scipy>=1.11",
        "opencv-python-headless>=4.9",
        "pillow>=10",
        "matplotlib>=3.8",
        "tensorboard>=2.16",
        "tabulate>=0.9",
        "termcolor>=2.3",
        "tqdm>=4.66",
    ],
    extras_require={
        "slurm": ["submitit>=1.5"],
        "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.3"],
        "openvino": ["openvino>=2025.0"],
        # Files in S3 by URL, and runs that are mirrored there.
        "remote": ["fsspec>=2025.3", "s3fs>=2025.3"],
        "trackio": ["trackio>=0.43"],
        # Detectors of that library; 5.24 is what they have been compared with.
        "transformers": ["transformers>=5.24,<5.25; python_version>='3.11'"],
        # With `train`, which brings what Ray's trainer and tuner need of pandas and pyarrow.
        "ray": ["ray[train]>=2.40"],
        "wandb": ["wandb>=0.19"],
        "test": [
            "pytest>=8",
            "setuptools>=68",
            "hypothesis>=6.100",
            "pytest-xdist>=3.5",
            "ruff==0.17.5",
            "mypy==2.4.1",
            "nbclient>=0.10",
            "ipykernel>=6.29",
            "peft>=0.21,<0.22",
            "submitit>=1.5",
            "trackio>=0.43",
        ],
        # What tests of clusters need besides; each is skipped without.
        "test-cluster": ["ray[train]>=2.40"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "License :: OSI Approved :: Apache Software License",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
