"""Numpy values in a `.pth`: what is crafted is refused, what is plain comes back."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.subset

UNKNOWN = b"J\xff\xff\xff\xff"  # -1
PLAIN = b"K\x00"
HAS_OBJECT = b"K\x3f"
OPENING = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def load_torch_file(path: str) -> Any:
    from detectron2.checkpoint import safe_load

    return safe_load.load_torch_file(path)


def raw(content: bytes) -> bytes:
    """How protocol 2 writes bytes."""
    return b"c_codecs\nencode\nX" + len(content).to_bytes(4, "little") + content + b"X\x06\x00\x00\x00latin1\x86R"


def state_of_dtype(flags: bytes, names: bytes = b"N", fields: bytes = b"N") -> bytes:
    return b"(K\x03U\x01<N" + names + fields + 2 * UNKNOWN + flags + b"tb"


def state_of_array(dtype: bytes) -> bytes:
    """One element of 8 bytes, all 0: as a pointer they would be none, so that the test itself survives."""
    return b"(K\x01K\x01\x85" + dtype + b"\x89" + raw(bytes(8)) + b"tb"


# The dtype is the memo's first object, the array its second.
ARRAY = OPENING + b"q\x02" + state_of_array(b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87Rq\x01" + state_of_dtype(PLAIN))
OBJECT_FIELD = b"}U\x01acnumpy\ndtype\nU\x01OK\x00K\x01\x87RK\x00\x86s"


def write(path: Path, *values: bytes) -> Path:
    """A `.pth` of a list of pickled values."""
    whole = io.BytesIO()
    torch.save([], whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            ours = b"\x80\x02](" + b"".join(values) + b"e."
            target.writestr(name, ours if name.endswith("/data.pkl") else source.read(name))
    return path


@pytest.mark.parametrize(
    "state",
    [state_of_dtype(HAS_OBJECT), state_of_dtype(HAS_OBJECT, b"U\x01a\x85", OBJECT_FIELD)],
    ids=["flag", "field"],
)
def test_a_dtype_that_is_changed_afterwards_does_not_turn_bytes_into_pointers(tmp_path, state):
    path = write(tmp_path / "crafted.pth", ARRAY, b"h\x01" + state)
    try:
        array = load_torch_file(str(path))[0]
    except pickle.UnpicklingError as error:
        assert "crafted.pth" in str(error)
    else:
        assert not array.dtype.hasobject and array.tolist() == [0.0]


@pytest.mark.parametrize(
    "value",
    [
        # An array of 2**40 bytes, one of objects, an array that is set twice, a stand-in that was never made.
        b"cnumpy\nndarray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x85R",
        OPENING + state_of_array(b"cnumpy\ndtype\nU\x01OK\x00K\x01\x87R"),
        ARRAY + state_of_array(b"h\x01"),
        OPENING + state_of_array(b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87\x81"),
        OPENING + state_of_array(b"cnumpy\ndtype\nU\x02V8K\x00K\x01\x87R"),
        OPENING + b"(K\x01K\x02\x85" + b"cnumpy\ndtype\nU\x02f8\x85R" + b"\x89" + raw(bytes(8)) + b"tb",
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x01O\x85R" + raw(bytes(8)) + b"\x86R",
    ],
    ids=["call", "objects", "twice", "not made", "void", "too long", "scalar of objects"],
)
def test_tricks_with_arrays_are_one_kind_of_error(tmp_path, value):
    with pytest.raises((pickle.UnpicklingError, RuntimeError), match=r"crafted\.pth"):
        load_torch_file(str(write(tmp_path / "crafted.pth", value)))


def test_arrays_can_be_saved_and_loaded_again(tmp_path):
    content = {"a": np.arange(6, dtype=">i4").reshape(2, 3)[:, ::2], "s": np.array("x"), "n": np.float64(0.5)}
    for _ in range(2):
        torch.save(content, tmp_path / "a.pth")
        content = load_torch_file(str(tmp_path / "a.pth"))
    assert content["a"].tolist() == [[0, 2], [3, 5]] and content["s"].item() == "x" and content["n"] == 0.5
    assert torch.equal(torch.from_numpy(content["a"].astype("i4")), torch.tensor([[0, 2], [3, 5]], dtype=torch.int32))
