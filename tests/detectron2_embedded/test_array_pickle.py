"""Pickles of arrays are read; what asks for anything else is refused before any of it is run."""

import contextlib
import copyreg
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectron2_embedded.array_pickle import ForbiddenPickleError, load_array_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
# What Python 2 and numpy 1 write for array([1, 2], float32): the raw bytes are a string.
PYTHON_2 = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
    b"(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89U\x08" + struct.pack("<2f", 1, 2) + b"tb."
)


class Calls:
    """Becomes a call of a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def read(tmp_path: Path, data: bytes):
    (tmp_path / "a.pkl").write_bytes(data)
    return load_array_pickle(tmp_path / "a.pkl")


def named(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls a name, whether it exists or not."""
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name, argument))
    return b"\x80\x04" + words[: -len(argument) - 2] + b"\x93" + words[-len(argument) - 2 :] + b"\x85R."


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8", "f2", "i8", "u1", "?", "U3", "S2", "c8"])
def test_arrays_come_back_as_they_were(tmp_path, protocol, dtype):
    plain = (np.arange(6).reshape(2, 3) - 2).astype("i8" if dtype not in ("u1", "?") else "u1").astype(dtype)
    arrays = [plain, np.asfortranarray(plain), plain[:, ::2], plain[:0], np.array(plain[0, 0])]
    found = read(tmp_path, pickle.dumps({"arrays": arrays, "value": plain[1, 1]}, protocol))
    for before, after in zip(arrays, found["arrays"]):
        # numpy may turn foreign byte orders into the machine's as it reads.
        assert after.dtype in (before.dtype, before.dtype.newbyteorder("=")) and after.shape == before.shape
        assert np.array_equal(after, before) and after.flags.writeable
    assert found["value"] == plain[1, 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_come_back_as_they_were(tmp_path, protocol):
    content = {"n": [1, -2.5, 10**40, None, True], "t": (b"x", b"", "ä"), "s": {1, 2}, "o": OrderedDict(b=1, a=2)}
    found = read(tmp_path, pickle.dumps(content, protocol))
    assert found == content and list(found["o"]) == ["b", "a"]
    objects = read(tmp_path, pickle.dumps(np.array([1, "x", None], dtype=object), protocol))
    assert objects.tolist() == [1, "x", None]


def test_a_pickle_of_python_2(tmp_path):
    assert read(tmp_path, PYTHON_2).tolist() == [1, 2]


def test_nothing_of_a_malicious_file_is_run(tmp_path):
    marker = tmp_path / "ran"
    good = np.ones(2, np.float32)
    command = f"mkdir {marker}"
    for evil, name in (
        (Calls(os.system, command), r"(posix|nt)\.system"),
        (Calls(eval, f"__import__('os').mkdir({str(marker)!r})"), r"(builtins|__builtin__)\.eval"),
        (Calls(exec, f"import os; os.mkdir({str(marker)!r})"), r"(builtins|__builtin__)\.exec"),
        (Calls(os.mkdir, str(marker)), r"(posix|nt)\.mkdir"),
        (Calls(getattr, good, "tofile"), r"(builtins|__builtin__)\.getattr"),
        (Calls(np.load, str(marker), None, True), r"numpy\.load"),
        (Calls(np.save, str(marker), good), r"numpy\.save"),
        (Calls(np.memmap, str(marker), "u1", "w+", 0, (1,)), "memmap"),
        (Calls(np.testing.measure, f"__import__('os').mkdir({str(marker)!r})"), "measure"),
    ):
        for protocol in PROTOCOLS:
            data = pickle.dumps({"model": {"weight": good}, "extra": evil}, protocol)
            with pytest.raises(ForbiddenPickleError, match=rf"{name}.*could run code"):
                read(tmp_path, data)
        assert not marker.exists()
        # The file is as bad as it looks.
    pickle.loads(pickle.dumps(Calls(os.mkdir, str(marker))))
    assert marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.f2py.crackfortran", "myeval"),
        ("numpy.f2py.diagnose", "run_command"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "os.system"),
        ("numpy", "core"),
        ("numpy._core.multiarray", "fromfile"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy.ctypeslib", "load_library"),
        ("numpy.dtypes", "Float32DType"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "load"),
        ("codecs", "encode"),
        ("no.such.module", "thing"),
        ("builtins", "bytearray"),
    ],
)
def test_names_beside_those_of_arrays_are_refused(tmp_path, module, name):
    with pytest.raises(ForbiddenPickleError, match=rf"names {module}\.{name}, .*could run code"):
        read(tmp_path, named(module, name, "x"))


def test_crafted_dtypes_do_not_turn_bytes_into_pointers(tmp_path):
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    pointer = b"U\x08" + struct.pack("<Q", 16)

    def with_dtype(code: bytes, names: bytes = b"N", fields: bytes = b"N") -> bytes:
        dtype = b"cnumpy\ndtype\nU" + bytes([len(code)]) + code + b"K\x00K\x01\x87R"
        dtype += b"(K\x03U\x01|N" + names + fields + b"K\x08K\x08K\x00tb"
        return b"\x80\x02" + array + b"(K\x01K\x01\x85" + dtype + b"\x89" + pointer + b"tb."

    assert read(tmp_path, with_dtype(b"i8")).tolist() == [16]
    with pytest.raises(pickle.UnpicklingError, match="object"):
        read(tmp_path, with_dtype(b"O8"))
    fields = b"}U\x01acnumpy\ndtype\nU\x01OK\x00K\x01\x87RK\x00\x86s"
    for code in (b"V8", b"f8"):
        with pytest.raises(ForbiddenPickleError, match=r"array of type 'V8'|structured array"):
            read(tmp_path, with_dtype(code, names=b"U\x01a\x85", fields=fields))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # ndarray called with a shape: 2**40 bytes.
        (b"cnumpy\nndarray\n(\x8a\x06\x00\x00\x00\x00\x00\x01tR.", "calls it"),
        # An array that says to be larger than its bytes.
        (PYTHON_2.replace(b"(K\x01K\x02\x85", b"(K\x01J\xff\xff\xff\x7f\x85"), "has 8 bytes"),
        (PYTHON_2.replace(b"(K\x01K\x02\x85", b"(K\x01J\xff\xff\xff\xff\x85"), "shape"),
        (PYTHON_2.replace(b"(K\x01K\x02\x85", b"(K\x01U\x01x\x85"), "shape"),
        # A string, and bytes, of 2**40; a position in the memo of 2**31.
        (b"\x8d" + struct.pack("<Q", 2**40) + b"x.", "expected 1099511627776 bytes"),
        (b"\x96" + struct.pack("<Q", 2**40) + b"x.", "expected 1099511627776 bytes"),
        (b"K\x01r\xff\xff\xff\x7f.", "position 2147483647"),
        (b"I1\np2147483647\n.", "position 2147483647"),
        # A stand-in that is changed.
        (b"cnumpy\ndtype\n}U\x05_callU\x01xsb.", "changes it"),
        (b"ccollections\nOrderedDict\n}U\x01xU\x01ysb.", "attribute|mappingproxy|state"),
        (b"Pid\n.", "outside of the file"),
    ],
)
def test_bombs_and_tricks(tmp_path, data, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        read(tmp_path, data)


def test_the_registry_of_extensions_is_no_way_around(tmp_path):
    copyreg.add_extension("posix", "getpid", 200)
    try:
        known = b"\x82\xc8)R."
        assert pickle.loads(known) == os.getpid()  # from now on it is cached, and no name is looked up again
        with pytest.raises(ForbiddenPickleError, match="EXT1"):
            read(tmp_path, known)
    finally:
        copyreg.remove_extension("posix", "getpid", 200)


SAMPLE = pickle.dumps({"model": OrderedDict(a=np.arange(4.0), b=np.float32(2)), "x": [b"1", {2}]}, 2)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_is_always_the_same_error(tmp_path_factory, changes):
    data = bytearray(SAMPLE)
    for place, value in changes:
        data[place] = value
    with contextlib.suppress(pickle.UnpicklingError):
        read(tmp_path_factory.getbasetemp(), bytes(data))
