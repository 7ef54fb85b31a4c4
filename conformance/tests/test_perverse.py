"""The perverse plugin, installed as an outsider installs it: other choices, the same bits."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorbus_backends import ir
from tensorbus_backends.contract import LaunchError
from tensorbus_backends.dtypes import float32
from tensorbus_backends.kernels import Map, Operand
from tensorbus_backends.kernels.base import Strided, pack
from tensorbus_conformance.judge.guard import Guarded

pytestmark = [
    pytest.mark.xdist_group("perverse"),
    pytest.mark.skipif(
        not any(map(shutil.which, ("gcc", "clang"))),
        reason="the perverse device needs gcc or clang",
    ),
]

PROJECT = Path(__file__).parents[2] / "examples" / "perverse"
OPS = (
    "add,multiply,exp,sum,max,softmax,matmul,cumulative_sum,sort,take,index_add,astype,"
    "floor_divide,uniform,linear"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed plugin."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *options]
    done = subprocess.run(
        [*command, "--target", str(target), str(PROJECT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def tensorbus(site: Path) -> Callable[..., str]:
    """Run the command line with the plugin installed; returns its output, asserts exit 0."""

    def call(*arguments: str) -> str:
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "120"}
        start = "import sys; from tensorbus_conformance.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", start, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_entry_point_is_found(tensorbus: Callable[..., str]) -> None:
    found = {d["name"]: d for d in json.loads(tensorbus("devices", "--json"))}
    assert found["perverse"]["available"], found["perverse"]


def test_portable_bits_do_not_change(tensorbus: Callable[..., str], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    tensorbus(
        *("conform", "--device", "perverse", "--level", "smoke", "--ops", OPS),
        *("--json", str(report), "--report", str(tmp_path)),
    )
    cells = json.loads(report.read_text())["cells"]
    assert {c["state"] for c in cells} == {"pass"}
    assert {c["device"] for c in cells} == {"perverse"}
    bits = Counter(c["op"].rpartition(".")[2] for c in cells if c["property"] == "bits")
    assert set(bits) == set(OPS.split(","))
    natives = [c for c in cells if c["variant"] == "native"]
    assert {c["op"] for c in natives} == {"sort", "sum", "nn.linear"}
    assert {(c["dtype"], c["served"]) for c in natives} == {("float32", "native")}
    assert {c["library"] for c in natives} == {f"NumPy {np.__version__}"}
    served = {c["op"]: c["served"] for c in cells if c["variant"] == "portable"}
    assert (served["nn.linear"], served["sum"]) == ("decomposed", "portable")


# -- the device itself: that it does take the other choices ------------------------------------


@pytest.fixture
def plugin(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The installed package, imported into this process."""
    monkeypatch.syspath_prepend(str(site))
    yield importlib.import_module("tensorbus_perverse")
    for name in [n for n in sys.modules if n.split(".")[0] == "tensorbus_perverse"]:
        del sys.modules[name]


def filled(device: Any, values: Sequence[float]) -> Any:
    """A float32 buffer with these values."""
    buffer = device.allocate(4 * len(values))
    device.copy_in(buffer, 0, memoryview(struct.pack(f"{len(values)}f", *values)))
    return buffer


def fetched(device: Any, buffer: Any, dtype: str) -> Any:
    """A buffer's contents."""
    raw = bytearray(buffer.nbytes)
    device.copy_out(buffer, 0, memoryview(raw))
    return np.frombuffer(raw, dtype)


def difference(device: Any, values: Sequence[float]) -> Any:
    """Launch ``y = x - x`` over `values`; returns the buffer of results, not yet computed."""
    x = ir.input_(0, float32)
    kernel = Map("difference", (Operand(float32),), (Operand(float32),), (x - x,))
    meta = pack(kernel.meta(len(values), [], [Strided.words(0, 1, [])] * 2))
    result = filled(device, [7.0] * len(values))
    groups = kernel.groups(device.dialect, len(values), 1)
    compiled = device.compile([kernel])[0]
    device.launch(compiled, groups, [filled(device, values), result], meta)
    return result


def test_memory_is_dirty_and_no_better_aligned_than_promised(plugin: Any) -> None:
    device = plugin.PLUGIN.open(0)
    first, second = device.allocate(256), device.allocate(256)
    assert fetched(device, first, "u1").any()
    assert (fetched(device, first, "u1") != fetched(device, second, "u1")).any()
    assert {b.array.ctypes.data % 128 for b in (first, second)} == {64}


def test_launches_wait_until_someone_asks(plugin: Any) -> None:
    device = plugin.PLUGIN.open(0)
    result = difference(device, [1.0] * 1000)
    event = device.record()
    assert (result.array.view("f4") != 0.0).all()
    event.wait()
    assert event.done()
    assert (result.array.view("f4") == 0.0).all()


def test_nans_have_many_signs_and_payloads(plugin: Any) -> None:
    device = plugin.PLUGIN.open(0)
    result = difference(device, [float("inf")] * 1000)
    bits = fetched(device, result, "u4")
    assert np.isnan(bits.view("f4")).all()
    assert set(bits >> 31) == {0, 1}
    assert len(set(bits.tolist())) > 900
    assert all(spelt in "".join(device.dialect.spell.values()) for spelt in ("0xfd5bu", "0xffd3u"))


def test_group_sizes_and_orders_vary(plugin: Any) -> None:
    device = plugin.PLUGIN.open(0)

    class Order:
        """Each lane stores when it was run; the counter is the text's own."""

        name, buffers, words = "order", 1, 1

        def source(self, dialect: Any) -> str:
            head = dialect.kernel.format(name=self.name, args="i32 *y_base, " + dialect.meta)
            lanes = "LANES(l, 64) y_base[tb_group * 64 + l] = turn++;"
            return f"static i32 turn;\n{head} {{ {lanes} y_base[512] = tb_size; }}\n"

    (kernel,) = device.compile([Order()])
    seen, sizes = set(), set()
    for _ in range(20):
        buffer = device.allocate(4 * 513)
        device.launch(kernel, 8, [buffer], struct.pack("q", 0))
        turns = fetched(device, buffer, "i4")
        seen.add(tuple(np.argsort(turns[:512])))
        sizes.add(int(turns[512]))
        starts = turns[:512].reshape(8, 64).min(1)
        assert len(set(starts)) == 8
    assert len(seen) == 20
    assert len(sizes) > 10
    assert min(sizes) >= 1
    assert max(sizes) <= 256


def test_undefined_conversions_are_errors(plugin: Any) -> None:
    device = plugin.PLUGIN.open(0)

    class Careless:
        name, buffers, words = "careless", 2, 1

        def source(self, dialect: Any) -> str:
            args = "const f32 *x_base, i32 *y_base, " + dialect.meta
            head = dialect.kernel.format(name=self.name, args=args)
            return str(head + "{ LANES(l, M(0)) y_base[l] = (i32)x_base[l]; }\n")

    (kernel,) = device.compile([Careless()])
    result = device.allocate(4)
    device.launch(kernel, 1, [filled(device, [1e9]), result], struct.pack("q", 1))
    assert fetched(device, result, "i4").tolist() == [10**9]
    device.launch(kernel, 1, [filled(device, [1e10]), result], struct.pack("q", 1))
    with pytest.raises(LaunchError, match="undefined"):
        device.synchronize()


@pytest.mark.parametrize("where", [-1, 16])
def test_fences_see_both_sides(plugin: Any, where: int) -> None:
    guarded: Any = Guarded(plugin.PLUGIN.open(0))

    class Outside:
        name, buffers, words = "outside", 1, 1

        def source(self, dialect: Any) -> str:
            head = dialect.kernel.format(name=self.name, args="i32 *y_base, " + dialect.meta)
            return str(head + "{ LANES(l, 1) y_base[M(0)] = 5; }\n")

    (kernel,) = guarded.compile([Outside()])
    buffer = guarded.allocate(64)
    guarded.launch(kernel, 1, [buffer], struct.pack("q", 0))
    assert not guarded.check()
    guarded.launch(kernel, 1, [buffer], struct.pack("q", where))
    assert guarded.check()


def test_contraction_is_on_unless_the_source_forbids_it(
    plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = Path("/proc/cpuinfo")
    x86 = platform.machine() == "x86_64" and figures.exists()
    if x86 and "fma" not in figures.read_text().split():
        pytest.skip("this processor has no fma to contract to")
    assert plugin.PLUGIN.probe()[0].available
    module = importlib.import_module("tensorbus_perverse.device")
    lines = module.DIALECT.prelude.splitlines(keepends=True)
    allowing = "".join(line for line in lines if not line.startswith("#pragma"))
    monkeypatch.setattr(module, "DIALECT", dataclasses.replace(module.DIALECT, prelude=allowing))
    (line,) = plugin.PLUGIN.probe()
    assert not line.available
    assert "contract" in line.cause
