"""Building simulated drivers, compiling kernels for them, loading modules."""

from __future__ import annotations

import ctypes as c
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_backends.simulator import compiler, library, wanted

sys.path.insert(0, str(Path(__file__).parent))
from simfamily import COMPILE, HERE, INVALID, NO_MEMORY, OK, SOURCES, Machine, machine

try:
    compiler()
    HAVE = True
except DeviceUnavailableError:
    HAVE = False
compiles = pytest.mark.skipif(not HAVE, reason="no C++ compiler")


@pytest.fixture
def m() -> Iterator[Machine]:
    the = machine()
    yield the
    the.control.disarm()


# -- Python's side ------------------------------------------------------------------------


def test_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORBUS_SIMULATE", raising=False)
    assert not wanted("cuda")
    monkeypatch.setenv("TENSORBUS_SIMULATE", " ROCm,cuda,")
    assert wanted("cuda")
    assert wanted("rocm")
    assert not wanted("metal")


def test_unknown_family_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBUS_SIMULATE", "cuda,hip")
    with pytest.raises(DeviceUnavailableError, match=r"'hip'.*cuda, rocm, metal"):
        wanted("cuda")


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    with pytest.raises(DeviceUnavailableError, match=r"no-such-compiler is not found.*set CXX"):
        library("probe", SOURCES, "libprobe.so")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DeviceUnavailableError, match="install g\\+\\+"):
        library("probe", SOURCES, "libprobe.so")


@compiles
def test_failed_build_shows_the_first_error(tmp_path: Path) -> None:
    source = tmp_path / "bad.cpp"
    source.write_text('#include "missing_vendor.h"\n')
    with pytest.raises(DeviceUnavailableError, match=r"bad\.cpp:1:.*missing_vendor\.h"):
        library("probe", [source], "libbad.so")
    with pytest.raises(DeviceUnavailableError, match="cannot be read"):
        library("probe", [tmp_path / "absent.cpp"], "libbad.so")


@compiles
def test_library_is_cached_by_text(tmp_path: Path) -> None:
    source, words = tmp_path / "tiny.cpp", tmp_path / "words.inc"
    source.write_text('extern "C" int answer(void) { return ANSWER; }\n')
    words.write_text("some text\n")
    first = library("probe", [source], "libtiny.so.1", ["-DANSWER=1"])
    assert library("probe", [source], "libtiny.so.1", ["-DANSWER=1"]) == first
    second = library("probe", [source], "libtiny.so.1", ["-DANSWER=2"])
    assert second != first
    sources = [source, words]
    third = library("probe", sources, "libtiny.so.1", ["-DANSWER=1"])
    words.write_text("other text\n")
    fourth = library("probe", sources, "libtiny.so.1", ["-DANSWER=1"])
    assert len({first, second, third, fourth}) == 4
    assert c.CDLL(str(second)).answer() == 2


@compiles
def test_other_files_are_embedded_as_text(m: Machine) -> None:
    assert m.lib.probe_words().decode() == (HERE / "simulated_words.h").read_text()


@compiles
def test_two_drivers_do_not_share_their_executor(m: Machine, tmp_path: Path) -> None:
    source = tmp_path / "other.cpp"
    source.write_text(
        'extern "C" long other_count(void);\n#include "executor.h"\n'
        'long other_count(void) { return tbs_count("alloc"); }\n'
    )
    path = library("probe", [source], "libother.so.1")
    first, second = c.CDLL(str(m.path), mode=c.RTLD_GLOBAL), c.CDLL(str(path), mode=c.RTLD_GLOBAL)
    m.alloc(16)
    assert second.other_count() == 0
    assert first.tbs_count(b"alloc") > 0


# -- kernels ------------------------------------------------------------------------------


@compiles
def test_error_has_the_line_of_the_text_under_its_name(m: Machine) -> None:
    status, binary, log = m.compile("KERNEL a(void **) {}\n\nKERNEL b(void **) { nonsense(); }\n")
    assert (status, binary) == (COMPILE, b"")
    line = next(line for line in log.splitlines() if "error" in line)
    assert line.startswith("test.cu:3:21: error: ")
    assert "nonsense" in line
    assert "/tmp" not in log
    assert m.message() == line


@compiles
def test_missing_include_shows_no_temporary_path(m: Machine) -> None:
    status, _, log = m.compile('#include "vendor.h"\n')
    assert status == COMPILE
    assert log.startswith("test.cu:1:")
    assert "tensorbus-" not in log


@compiles
def test_undefined_function_is_an_error_of_the_compiler(m: Machine) -> None:
    status, _, log = m.compile("int absent(int);\nKERNEL a(void **) { absent(1); }\n")
    assert status == COMPILE
    assert "absent(int)" in log
    assert "tensorbus-" not in log


@compiles
def test_options_reach_the_compiler(m: Machine) -> None:
    text = "#ifndef WIDTH\n#error no width\n#endif\n"
    assert m.compile(text)[0] == COMPILE
    assert m.compile(text, ["-DWIDTH=3"])[0] == OK


@compiles
def test_warnings_are_silent(m: Machine) -> None:
    status, _, log = m.compile("KERNEL a(void **) { int unused; int x = 1.5; }\n", ["-Wall"])
    assert (status, log) == (OK, "")


@compiles
def test_compiler_that_is_absent(m: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, log = m.compile("", compiler=b"no-such-compiler")
    assert status == COMPILE
    assert "'no-such-compiler' cannot be started" in log
    monkeypatch.setenv("TENSORBUS_SIMULATE_CXX", "another-compiler")
    assert "'another-compiler'" in m.compile("")[2]


@compiles
def test_temporary_files_are_removed(
    m: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    status, binary, _ = m.compile("KERNEL a(void **) {}\n")
    assert status == OK
    assert m.load(binary)[0] == OK
    assert m.compile("broken")[0] == COMPILE
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    assert m.compile("")[0] == COMPILE
    assert "set TMPDIR" in m.message()


@compiles
def test_modules_of_one_name_are_apart(m: Machine) -> None:
    text = """
    TBS_SHARED int padding[{n}];
    static int calls;
    KERNEL number(void **a) {{ *(int *)a[0] = {n} * 100 + ++calls + 0 * padding[0]; }}
    """
    address = m.alloc(4)
    x = m.array(address, "i4", 1)
    found = []
    for n in (1, 2, 1, 2):
        assert m.run(text.format(n=n), "number", [address]) == OK
        found.append(int(x[0]))
    assert found == [101, 201, 102, 202]
    # The same binary twice has its own variables each time.
    _, binary, _ = m.compile(text.format(n=3))
    (_, one), (_, two) = m.load(binary), m.load(binary)
    assert m.lib.tbs_symbol(one, b"number") != m.lib.tbs_symbol(two, b"number")
    m.lib.tbs_unload(one)
    m.lib.tbs_unload(two)


@compiles
def test_what_is_no_module(m: Machine) -> None:
    assert m.load(b"garbage")[0] == INVALID
    assert m.lib.tbs_symbol(m.module("KERNEL a(void **) {}\n"), b"absent") is None
    assert "'absent'" in m.message()


@compiles
def test_failures_on_demand(m: Machine) -> None:
    m.control.arm("compile")
    status, _, log = m.compile("KERNEL a(void **) {}\n")
    assert status == COMPILE
    assert "on demand" in log
    status, binary, _ = m.compile("KERNEL a(void **) {}\n")
    assert status == OK
    m.control.arm("load")
    assert [m.load(binary)[0] for _ in range(2)] == [NO_MEMORY, OK]


@compiles
def test_unloading_runs_what_still_waits(m: Machine) -> None:
    _, binary, _ = m.compile("KERNEL set(void **a) { *(int *)a[0] = 7; }\n")
    _, module = m.load(binary)
    address = m.alloc(4)
    words = (c.c_uint64 * 1)(address)
    stream = c.c_void_p(m.lib.tbs_stream_new(0))
    body = c.c_void_p(m.lib.tbs_symbol(module, b"set"))
    assert m.lib.probe_launch(stream, module, body, words, c.c_uint32(1)) == OK
    m.lib.tbs_unload(module)
    assert m.array(address, "i4", 1)[0] == 7
    m.lib.tbs_stream_free(stream)


@compiles
def test_arithmetic_is_not_contracted(m: Machine) -> None:
    text = """
    KERNEL both(void **a) {
        float *x = (float *)a[0];
        x[3] = x[0] * x[1] + x[2];
        x[4] = __builtin_fmaf(x[0], x[1], x[2]);
    }
    """
    # g++ contracts from -O2 on, where it may.
    _, binary, _ = m.compile(text, ["-O2"])
    _, module = m.load(binary)
    body = c.c_void_p(m.lib.tbs_symbol(module, b"both"))
    stream = c.c_void_p(m.lib.tbs_stream_new(0))
    address = m.alloc(20)
    x = m.array(address, "f4", 5)
    e = np.float32(2.0**-23)
    x[:3] = 1 + e, 1 - e, -1
    words = (c.c_uint64 * 1)(address)
    assert m.lib.probe_launch(stream, module, body, words, c.c_uint32(1)) == OK
    assert m.lib.tbs_drain(stream) == OK
    m.lib.tbs_stream_free(stream)
    assert x[3] == 0
    assert x[4] == -(e * e)
