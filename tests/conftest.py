"""Fixtures that several test files share."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch

import detectron2_embedded
import loradet  # noqa: F401  (makes `import detectron2` work before any test module imports it)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them, and what they start, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what looks at the insides of the embedded Detectron2 where another one answers."""
    if detectron2_embedded.is_embedded():
        return
    reason = f"needs the embedded Detectron2; {detectron2_embedded.origin()} is in use"
    for item in items:
        if item.get_closest_marker("subset"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """Folder that holds `detectron2/` (and later `detr/`, `vim/`): numbers recorded from the originals."""
    return Path(os.environ.get("LORADET_GOLDEN") or Path(__file__).parent / "golden")


@pytest.fixture(scope="session")
def golden_d2(golden_root: Path) -> Path:
    """Folder with the numbers recorded from Detectron2."""
    return golden_root / "detectron2"


@pytest.fixture(autouse=True)
def _torch_threads():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _own_dataset_names():
    """A data set that one test module registers does not stand in another one's way."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


@pytest.fixture(autouse=True)
def _own_log_handlers():
    """The console and file handlers of a run in this process end with the test that ran it; `caplog` sees every log."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "loradet")]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.propagate = True
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate
