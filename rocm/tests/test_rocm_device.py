"""An open device over the simulated driver: memory, launches, events, threads, failures."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    DeviceLostError,
    DeviceUnavailableError,
    Evidence,
    LaunchError,
    OutOfMemoryError,
)
from tensorbus_backends.simulator import Control
from tensorbus_rocm import dialect as dialect_module, driver as driver_module
from tensorbus_rocm.plugin import open_device, probe

sys.path.insert(0, str(Path(__file__).parent))
from adding import AddTo, download, meta, upload

if TYPE_CHECKING:
    from conftest import Settings
    from tensorbus_rocm.device import RocmDevice

X = np.arange(256, dtype=np.int32)


def run_add(device: Any, value: int = 5, x: Any = X) -> Any:
    (kernel,) = device.compile([AddTo()])
    source, target = upload(device, x), device.allocate(x.nbytes)
    device.launch(kernel, x.size // 64, [source, target], meta(value))
    return download(device, target, np.int32, x.size)


# -- what it says of itself ---------------------------------------------------------------


def test_the_line_says_simulated(settings: Settings) -> None:
    settings("name=Instinct X,arch=gfx1030,memory=512MiB")
    (line,) = probe()
    assert (line.available, line.evidence) == (True, Evidence.SIMULATED)
    assert line.description.startswith("Instinct X (gfx1030), simulated HIP 6.1.")
    assert line.aliases == ("rocm:gfx1030:0",)
    assert line.details["memory"] == str(512 << 20)
    assert "inexact" not in line.details


def test_capabilities(device: RocmDevice) -> None:
    declared = device.capabilities
    assert (declared.local_memory, declared.max_group, declared.fp64) == (65536, 1024, True)
    assert (declared.division, declared.square_root) == ("correct", "correct")
    assert (declared.subnormals, declared.ieee) == ("preserve", True)
    assert device.dlpack_type == 10


@pytest.mark.parametrize("version", ["5.2", "6.1", "7.0"])
def test_each_version_of_hip(settings: Settings, version: str) -> None:
    settings(f"version={version},arch=gfx942:sramecc+:xnack-")
    device = open_device(0)
    assert device.info.details["arch"] == "gfx942:sramecc+:xnack-"
    assert f"HIP {version}." in device.info.details["driver"]
    assert (run_add(device) == X + 5).all()


# -- memory -------------------------------------------------------------------------------


def test_copies(device: RocmDevice) -> None:
    a = upload(device, X)
    b = device.allocate(X.nbytes)
    device.copy(b, 256, a, 0, X.nbytes - 256)
    device.copy(b, 0, a, X.nbytes - 256, 256)
    assert (download(device, b, np.int32, 256) == np.roll(X, 64)).all()


def test_a_source_may_change_after_the_copy(device: RocmDevice) -> None:
    x = X.copy()
    buffer = upload(device, x)
    x[:] = 0
    assert (download(device, buffer, np.int32, 256) == X).all()


def test_parts_and_pointers(device: RocmDevice) -> None:
    whole = upload(device, np.arange(4096, dtype=np.int32))
    part = device.part(whole, 4096, 4096)
    assert device.pointer(part) == device.pointer(whole) + 4096
    again = device.import_pointer(device.pointer(part), 4096, part)
    assert (download(device, again, np.int32, 1024) == np.arange(1024, 2048)).all()


def test_memory_runs_out_and_the_device_goes_on(device: RocmDevice, control: Control) -> None:
    control.arm("alloc", 1)
    # The pool gives back what it keeps and tries again.
    device.allocate(1 << 20)
    with pytest.raises(OutOfMemoryError, match="rocm:0"):
        device.allocate(8 << 30)
    control.set_memory(1 << 20)
    with pytest.raises(OutOfMemoryError, match="rocm:0"):
        device.allocate(64 << 20)
    control.set_memory(4 << 30)
    assert (run_add(device) == X + 5).all()


# -- kernels ------------------------------------------------------------------------------


def test_a_prepared_launch_serves_many_threads(device: RocmDevice) -> None:
    (kernel,) = device.compile([AddTo()])
    launch = kernel.prepare(4, meta(1))  # type: ignore[attr-defined]
    wrong = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).integers(0, 1000, 256).astype(np.int32)
        source, target = upload(device, x), device.allocate(x.nbytes)
        for _ in range(20):
            launch(source, target)
            launch(target, source)
        if not (download(device, source, np.int32, 256) == x + 40).all():
            wrong.append(seed)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_launch_in_the_midst_of_another_keeps_its_arguments(device: RocmDevice) -> None:
    """HIP copies arguments during the call, in which another thread may launch the same."""
    driver = device._hip_driver

    class Interrupted:
        """HIP, with another launch just before its own."""

        def __getattr__(self, name: str) -> Any:
            return getattr(driver.hip.lib, name)

        def hipModuleLaunchKernel(self, *arguments: Any) -> int:  # noqa: N802
            if pending:
                pending.pop()()
            return int(driver.hip.lib.hipModuleLaunchKernel(*arguments))

    pending: list[Any] = []
    driver._lib = Interrupted()
    (kernel,) = device.compile([AddTo()])
    launch = kernel.prepare(4, meta(1))  # type: ignore[attr-defined]
    source, first, second = upload(device, X), device.allocate(1024), device.allocate(1024)
    for _ in range(3):  # the first calls make what later ones use again
        pending.append(lambda: launch(source, second))
        launch(source, first)
    device.launch(kernel, 4, [source, first], meta(8))
    device.launch(kernel, 4, [source, second], meta(9))
    pending.append(lambda: launch(source, second))
    launch(source, first)
    assert (download(device, first, np.int32, 256) == X + 1).all()
    assert (download(device, second, np.int32, 256) == X + 1).all()


def test_a_product_and_a_sum_are_rounded_twice(device: RocmDevice) -> None:
    body = """LANES(l, 64) {
    const f32 a = as_f32_i32(x[64 * g + l]), b = as_f32_i32((i32)M(2));
    y[64 * g + l] = as_i32_f32(a * a + b);
}"""
    (kernel,) = device.compile([AddTo("twice", body)])
    operand = np.full(64, 1 + 2.0**-12, np.float32)
    source, target = upload(device, operand), device.allocate(256)
    minus = int(np.float32(-(1 + 2.0**-11)).view(np.int32))
    device.launch(kernel, 1, [source, target], meta(minus))
    assert (download(device, target, np.float32, 64) == 0).all()


def test_a_grid_beyond_32_bits_of_threads_is_launched_in_parts(
    device: RocmDevice, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dialect_module.MOST_THREADS == 2**32 - 1
    monkeypatch.setattr(driver_module, "MOST_THREADS", 3 * 128 + 5)
    before = control.count("launch")
    x = np.arange(64 * 8, dtype=np.int32)
    assert (run_add(device, 7, x) == x + 7).all()
    assert control.count("launch") - before == 3


def test_groups_of_any_size_give_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for group in ("1", "32", "96", "1024"):
        monkeypatch.setenv("TENSORBUS_ROCM_GROUP", group)
        assert (run_add(open_device(0)) == X + 5).all()
    monkeypatch.setenv("TENSORBUS_ROCM_GROUP", "0")
    with pytest.raises(BackendError, match="TENSORBUS_ROCM_GROUP='0'"):
        open_device(0)


def test_events(device: RocmDevice) -> None:
    (kernel,) = device.compile([AddTo()])
    source, target = upload(device, X), device.allocate(X.nbytes)
    device.launch(kernel, 4, [source, target], meta(1))
    event = device.record()
    assert not event.done()
    event.wait()
    assert event.done()


def test_a_rejected_kernel_shows_log_and_source(device: RocmDevice) -> None:
    with pytest.raises(CompileError, match=r"kernel 'bad': hiprtc rejected it") as caught:
        device.compile([AddTo("bad", "LANES(l, 64) y[l] = undeclared_name;")])
    assert "undeclared_name" in caught.value.log
    line = next(t for t in caught.value.log.splitlines() if "error" in t)
    number = int(line.split(":")[1])
    numbered = caught.value.numbered_source().splitlines()[number - 1]
    assert numbered.startswith(f"{number:4d} ")
    assert "undeclared_name" in numbered


def test_a_compiler_that_fails(empty_cache: Path, device: RocmDevice, control: Control) -> None:
    fresh = AddTo("never_compiled", "LANES(l, 64) y[64 * g + l] = x[64 * g + l] - (i32)M(2) * 3;")
    control.arm("compile", 1)
    with pytest.raises(CompileError, match="never_compiled") as caught:
        device.compile([fresh])
    assert "on demand" in caught.value.log
    device.compile([fresh])


def test_too_much_shared_memory_is_refused_before_compiling(device: RocmDevice) -> None:
    with pytest.raises(CompileError, match=r"65537 bytes of memory shared by a group.*65536"):
        device.compile([AddTo("greedy", local=65537)])


def test_a_program_for_another_gpu_is_no_program(device: RocmDevice) -> None:
    code = device._hip_driver
    other = device._builder._toolchain._hiprtc.compile("", "gfx1030")  # type: ignore[attr-defined]
    with pytest.raises(CompileError, match="hipErrorNoBinaryForGpu"):
        code.load(other)
    with pytest.raises(CompileError, match="hipErrorInvalidImage"):
        code.load(b"x" * 256)


def test_a_group_larger_than_the_kernel_allows_is_refused(device: RocmDevice) -> None:
    device.compile([AddTo()])
    device._hip_driver.group = 256  # its kernels say __launch_bounds__(128)
    with pytest.raises(LaunchError, match="hipErrorInvalidValue"):
        run_add(device)


def test_code_of_another_simulated_compiler_is_not_taken_for_its_own(device: RocmDevice) -> None:
    assert device.hip.path in device._builder._toolchain.identity


# -- failures -----------------------------------------------------------------------------


def test_a_refused_launch_leaves_the_device_usable(device: RocmDevice, control: Control) -> None:
    device.compile([AddTo()])
    control.arm("launch", 1)
    with pytest.raises(LaunchError, match=r"launching kernel 'add_to' .hipErrorLaunchFailure"):
        run_add(device)
    assert (run_add(device) == X + 5).all()


def test_a_kernel_that_fails_is_reported_when_waited_for(
    device: RocmDevice, control: Control
) -> None:
    (kernel,) = device.compile([AddTo()])
    source, target = upload(device, X), device.allocate(X.nbytes)
    control.arm("kernel", 1)
    device.launch(kernel, 4, [source, target], meta(1))
    with pytest.raises(LaunchError, match="finishing its work"):
        device.synchronize()
    assert (run_add(device) == X + 5).all()


@pytest.mark.parametrize("kind", ["lost", "illegal"])
def test_a_lost_device_says_so_every_time(device: RocmDevice, control: Control, kind: str) -> None:
    device.compile([AddTo()])
    control.arm(kind, 1)
    words = "not its own" if kind == "illegal" else "was lost"
    with pytest.raises(DeviceLostError, match=words):
        run_add(device)
    for attempt in (device.synchronize, lambda: run_add(device)):
        with pytest.raises(DeviceLostError, match="start a new process"):
            attempt()


def test_an_overrun_is_found(device: RocmDevice) -> None:
    # Within the page behind the block, which nobody may touch.
    body = "LANES(l, 64) y[64 * g + l + (l == 63 ? 512 : 0)] = x[64 * g + l];"
    (kernel,) = device.compile([AddTo("overrun", body)])
    source, target = upload(device, X), device.allocate(X.nbytes)
    device.launch(kernel, 4, [source, target], meta(0))
    with pytest.raises(DeviceLostError):
        device.synchronize()


# -- several devices ----------------------------------------------------------------------


def test_two_devices_of_different_kinds(settings: Settings) -> None:
    settings("devices=2,arch=gfx90a:sramecc+:xnack-/gfx1100,memory=1GiB/256MiB")
    lines = probe()
    assert [x.name for x in lines if x.available] == ["rocm:0", "rocm:1"]
    first, second = open_device(0), open_device(1)
    assert second.info.details["arch"] == "gfx1100"
    results: dict[int, Any] = {}

    def work(k: int, device: Any) -> None:
        results[k] = [run_add(device, k + j) for j in range(5)]

    threads = [threading.Thread(target=work, args=(k, (first, second)[k % 2])) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all((results[k][j] == X + k + j).all() for k in range(4) for j in range(5))


def test_copies_between_devices_wait_for_both(settings: Settings) -> None:
    settings("devices=2")
    first, second = open_device(0), open_device(1)
    (kernel,) = first.compile([AddTo()])
    source, made = upload(first, X), first.allocate(X.nbytes)
    target = second.allocate(X.nbytes)
    first.launch(kernel, 4, [source, made], meta(3))
    assert second.copy_from(target, 0, made, 0, X.nbytes)
    first.launch(kernel, 4, [source, made], meta(100))
    assert (download(second, target, np.int32, 256) == X + 3).all()


def test_the_current_device_of_the_thread_stays(settings: Settings) -> None:
    settings("devices=2")
    second = open_device(1)
    lib = second._hip_driver.hip.lib  # type: ignore[attr-defined]
    now = driver_module.ffi().new("int *")
    lib.hipSetDevice(0)
    run_add(second)
    lib.hipGetDevice(now)
    assert now[0] == 0


def test_an_index_that_is_not_there(settings: Settings) -> None:
    with pytest.raises(DeviceUnavailableError, match="sees 1 ROCm device"):
        open_device(1)


# -- processes ----------------------------------------------------------------------------

_FORK = """
import os, sys
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import NativeCase
from tensorbus_rocm.plugin import open_device, probe
device = open_device(0)
event = device.record()
case = NativeCase("matmul", (dt.float32,) * 3, ((4, 4),) * 3, ((4, 1),) * 3)
operands = [device.allocate(64) for _ in range(3)]
multiply = lambda: device.natives["matmul"].run(case, operands, [0, 0, 0])
child = os.fork()
if child == 0:
    try:
        for attempt in (device.synchronize, lambda: device.allocate(1 << 20), event.wait, multiply):
            try:
                attempt()
            except Exception as error:
                assert "spawn" in str(error), error
            else:
                os._exit(1)
        (line,) = probe()
        assert not line.available and "forked" in line.cause, line
        del event
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(2)
_, status = os.waitpid(child, 0)
device.allocate(1 << 20)
device.synchronize()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_gets_an_error_not_a_hang(settings: Settings) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_FORK)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


_END = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
from adding import AddTo, meta, upload
from tensorbus_rocm.plugin import open_device
device = open_device(0)
(kernel,) = device.compile([AddTo()])
source = upload(device, np.zeros(256, np.int32))
for k in range(100):
    device.launch(kernel, 4, [source, source], meta(1))
event = device.record()
cycle = [event, device, source]
cycle.append(cycle)
"""


def test_a_process_ends_in_the_midst_of_work(settings: Settings) -> None:
    script = textwrap.dedent(_END).format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_probing_leaves_no_memory_behind(control: Control) -> None:
    from tensorbus_rocm.plugin import find_hip

    sizes = driver_module.ffi().new("size_t[2]")
    lib = find_hip().lib
    probe()
    assert lib.hipMemGetInfo(sizes, sizes + 1) == 0
    before = sizes[0]
    probe()
    assert lib.hipMemGetInfo(sizes, sizes + 1) == 0
    assert sizes[0] == before
