"""Numbers that cannot be written are an error that names the file, once."""

import contextlib
import re
import resource
import threading

import pytest
from detectron2.utils.events import EventStorage

from loradet.files import WriteError
from loradet.run_folder import RunFolder
from loradet.training.folder.event_files import EventFile, MetricsFile
from loradet.training.folder.metrics_log import read_lines


@contextlib.contextmanager
def full_disk():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("writer_of", "name"), [(MetricsFile, "metrics.json"), (EventFile, "events.out.tfevents.*")])
def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, capfd, writer_of, name):
    folder, hook = RunFolder(tmp_path), threading.excepthook
    told = rf"^{re.escape(str(tmp_path / name))} cannot be written: File too large\. Make room, then try again\.$"
    with EventStorage(0) as storage:
        writer = writer_of(folder)
        storage.put_scalar("total_loss", 1.0)
        writer.write()
        storage.iter = 1
        storage.put_scalar("total_loss", 2.0)
        with full_disk():
            with pytest.raises(WriteError, match=told):
                writer.write()
                writer.close()  # TensorBoard's thread has not written yet, it may be
            with contextlib.suppress(WriteError):
                writer.close()
    assert threading.excepthook == hook
    assert "Traceback" not in capfd.readouterr().err
    if writer_of is MetricsFile:
        assert read_lines(folder.metrics) == [{"iteration": 0, "total_loss": 1.0}]
