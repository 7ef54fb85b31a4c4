"""Every failure comes out as one of the contract's exceptions, with words that help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    DeviceLostError,
    LaunchError,
    OutOfMemoryError,
)
from tensorbus_backends.simulator import Control
from tensorbus_metal.device import MetalDevice
from tensorbus_metal.errors import failure

Make = Callable[..., MetalDevice]
N = 64
META = np.zeros(3, np.int64).tobytes()


def buffers(device: MetalDevice) -> list[Any]:
    made = [device.allocate(4 * N) for _ in range(2)]
    for buffer in made:
        device.copy_in(buffer, 0, memoryview(bytes(4 * N)))
    return made


def fails(device: MetalDevice, add_to: Any) -> None:
    """One launch, waited for."""
    (kernel,) = device.compile([add_to()])
    device.launch(kernel, 1, buffers(device), META)
    device.synchronize()


def test_an_allocation_that_fails_once_is_tried_again(device: MetalDevice, faults: Control) -> None:
    faults.arm("alloc", 1)
    assert device.allocate(1000).nbytes == 1000
    assert faults.count("alloc") >= 2


def test_memory_runs_out_and_the_device_goes_on(
    device: MetalDevice, faults: Control, add_to: Any
) -> None:
    half = device.memory().total // 2
    with pytest.raises(OutOfMemoryError, match="largest is"):
        device.allocate(half + 1)
    kept = [device.allocate(half // 2) for _ in range(3)]
    with pytest.raises(OutOfMemoryError, match=r"drop tensors .* or work on smaller pieces"):
        device.allocate(half)
    del kept
    device.allocate(half)
    fails(device, add_to)


def test_an_allocation_fails_for_good(device: MetalDevice, faults: Control) -> None:
    faults.set_memory(1 << 20)
    try:
        with pytest.raises(OutOfMemoryError, match="out of memory"):
            device.allocate(2 << 20)
        device.allocate(1 << 16)
    finally:
        faults.set_memory(4 << 30)


def test_a_kernel_that_does_not_compile(device: MetalDevice, add_to: Any) -> None:
    good, bad = add_to(), add_to("wrong", body="LANES(l, 64) y[l] = no_such_thing;")
    with pytest.raises(CompileError) as caught:
        device.compile([good, bad])
    error = caught.value
    assert "kernel 'wrong'" in str(error)
    assert "no_such_thing" in error.log
    (number,) = {line.split(":")[1] for line in error.log.splitlines() if ": error: " in line}
    numbered = error.numbered_source().splitlines()
    assert "no_such_thing" in next(x for x in numbered if x.split()[0] == number)
    device.compile([good])


def test_a_compiler_that_breaks(device: MetalDevice, faults: Control, add_to: Any) -> None:
    faults.arm("compile", 1)
    with pytest.raises(CompileError, match="on demand"):
        device.compile([add_to()])
    device.compile([add_to()])


def test_a_launch_that_is_refused(device: MetalDevice, faults: Control, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    given = buffers(device)
    faults.arm("launch", 1)
    device.launch(kernel, 1, given, META)
    with pytest.raises(LaunchError, match="MTLCommandBufferErrorInternal"):
        device.synchronize()
    fails(device, add_to)


def test_more_groups_than_a_grid_numbers(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    with pytest.raises(LaunchError, match="work on smaller pieces"):
        device.launch(kernel, 1 << 32, buffers(device), META)


def test_a_kernel_that_fails_is_met_by_the_next_read(
    device: MetalDevice, faults: Control, add_to: Any
) -> None:
    (kernel,) = device.compile([add_to()])
    a, b = buffers(device)
    faults.arm("kernel", 1)
    device.launch(kernel, 1, [a, b], META)
    with pytest.raises(LaunchError):
        device.copy_out(b, 0, memoryview(bytearray(4)))
    device.copy_out(b, 0, memoryview(bytearray(4)))


def test_a_copy_that_is_refused(device: MetalDevice, faults: Control) -> None:
    a, b = buffers(device)
    faults.arm("copy", 1)
    device.copy(a, 0, b, 0, 64)
    with pytest.raises(LaunchError):
        device.record().wait()


def test_a_kernel_that_leaves_its_buffer(device: MetalDevice, add_to: Any) -> None:
    wild = add_to("wild", body="LANES(l, 64) y[64 + l] = x[l];")
    (kernel,) = device.compile([wild])
    device.launch(kernel, 1, buffers(device), META)
    with pytest.raises(LaunchError, match="PageFault"):
        device.synchronize()


def test_a_device_that_is_lost_stays_lost(
    device: MetalDevice, faults: Control, add_to: Any
) -> None:
    (kernel,) = device.compile([add_to()])
    a, b = buffers(device)
    faults.arm("lost", 2)
    device.launch(kernel, 1, [a, b], META)
    device.launch(kernel, 1, [a, b], META)
    with pytest.raises(DeviceLostError, match="start a new process"):
        device.synchronize()
    for call in (
        lambda: device.launch(kernel, 1, [a, b], META),
        lambda: device.copy_in(a, 0, memoryview(bytes(4))),
        lambda: device.copy_out(a, 0, memoryview(bytearray(4))),
        lambda: device.allocate(1 << 20),
        device.synchronize,
        device.record,
    ):
        with pytest.raises(DeviceLostError):
            call()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (1, LaunchError, "Internal"),
        (2, LaunchError, "smaller pieces"),
        (3, LaunchError, "outside of its buffers"),
        (4, DeviceLostError, "AccessRevoked"),
        (8, OutOfMemoryError, "smaller pieces"),
        (11, DeviceLostError, "DeviceRemoved"),
        (99, LaunchError, "MTLCommandBufferError 99"),
    ],
)
def test_each_error_of_a_command_buffer(code: int, kind: type[BackendError], words: str) -> None:
    met = failure(code, "said so", "metal:0")
    assert type(met) is kind
    assert words in str(met)
    assert "said so" in str(met)


def test_a_forked_child_gets_an_error_and_the_parent_goes_on(
    simulated: Callable[..., str],
) -> None:
    script = """
    import os, sys
    import numpy as np, tensorbus as tb
    x = tb.asarray(np.ones(4, np.float32), device="metal")
    y = x + x
    child = os.fork()
    if not child:
        try:
            print(x + x)
        except Exception as error:
            sys.stdout.write(type(error).__name__ + " " + str(error) + "\\n")
            sys.stdout.flush()
        del x, y
        from tensorbus_metal.system import find_metal
        if find_metal().objc.alive:
            print("the child still sends messages", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print((y + x).numpy().tolist())
    """
    first, second = simulated(script).splitlines()
    assert first.startswith("BackendError metal:0 was opened by process")
    assert second == "[3.0, 3.0, 3.0, 3.0]"


def test_a_process_may_end_in_the_middle(simulated: Callable[..., str]) -> None:
    script = """
    import numpy as np, tensorbus as tb
    x = tb.asarray(np.ones(4, np.float32), device="metal")
    y = x + x
    print("done")
    """
    assert simulated(script).strip() == "done"


def test_two_devices_fail_apart(simulated: Callable[..., str]) -> None:
    script = """
    import numpy as np, tensorbus as tb
    from tensorbus_backends.simulator import control
    from tensorbus_metal.simulator import library
    x = [tb.asarray(np.ones(4, np.float32), device=f"metal:{k}") for k in range(2)]
    try:
        x[0] + x[1]
    except Exception as error:
        print(type(error).__name__)
    control(library()).arm("lost", 1)
    try:
        print((x[0] + x[0]).numpy())
    except Exception as error:
        print(type(error).__name__)
    print((x[1] + x[1]).numpy().tolist())
    """
    first, second, third = simulated(script, devices=2).splitlines()
    assert "Error" in first
    assert second == "DeviceLostError"
    assert third == "[2.0, 2.0, 2.0, 2.0]"
