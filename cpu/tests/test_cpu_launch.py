"""Compilation and launches on the cpu device."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import BackendError, CompileError, LaunchError
from tensorbus_backends.kernels import Map, Operand
from tensorbus_backends.kernels.base import Strided, pack
from tensorbus_backends.units import program_text
from tensorbus_cpu.dialect import C

SCALE = "LANES(l, 4) {\n    y0[4 * g + l] = x0[4 * g + l] * (f32)M(2);\n}"
MARK = "y0[g] = (u8)(y0[g] + 1);"


@pytest.mark.parametrize("groups", [1, 2, 3, 7, 64, 1000, 100_003])
def test_every_group_runs_exactly_once(device, hand_kernel, put, get, groups):
    spec = hand_kernel("t_mark", MARK, dtypes=("uint8",))
    (kernel,) = device.compile([spec])
    target = put(device, np.zeros(groups + 1, np.uint8))
    for times in (1, 2, 3):
        device.launch(kernel, groups, [target], spec.meta())
        got = get(device, target, np.uint8, groups + 1)
        assert (got[:-1] == times).all()
        assert got[-1] == 0


def test_metadata_and_offsets_reach_the_kernel(device, hand_kernel, put, get):
    spec = hand_kernel("t_scale", SCALE, extra=1)
    (kernel,) = device.compile([spec])
    source = put(device, np.arange(12, dtype=np.float32))
    target = put(device, np.full(12, -1, np.float32))
    device.launch(kernel, 2, [source, target], np.array([3, 1, 5], np.int64).tobytes())
    got = get(device, target, np.float32, 12)
    np.testing.assert_array_equal(got[1:9], np.arange(3, 11) * 5)
    np.testing.assert_array_equal(got[[0, 9, 10, 11]], -1)


def test_prepared_launch_takes_other_buffers(device, hand_kernel, put, get):
    spec = hand_kernel("t_scale", SCALE, extra=1)
    (kernel,) = device.compile([spec])
    launch = kernel.prepare(2, spec.meta(3))
    for start in (0, 100):
        source = put(device, np.arange(start, start + 8, dtype=np.float32))
        target = put(device, np.zeros(8, np.float32))
        assert launch(source, target) is None
        np.testing.assert_array_equal(
            get(device, target, np.float32, 8), np.arange(start, start + 8) * 3
        )
    with pytest.raises(TypeError):
        launch(source)


def test_prepared_launch_through_cffi_agrees(device, hand_kernel, put, get, monkeypatch):
    spec = hand_kernel("t_scale", SCALE, extra=1)
    (kernel,) = device.compile([spec])
    monkeypatch.setattr(device._runtime, "_fast", None)
    launch = kernel.prepare(3, spec.meta(7))
    source = put(device, np.arange(12, dtype=np.float32))
    target = put(device, np.zeros(12, np.float32))
    launch(source, target)
    np.testing.assert_array_equal(get(device, target, np.float32, 12), np.arange(12) * 7)


def test_host_threads_may_launch_at_once(device, hand_kernel, put, get):
    spec = hand_kernel("t_scale", SCALE, extra=1)
    (kernel,) = device.compile([spec])
    wrong = []

    def work(factor: int) -> None:
        source = put(device, np.arange(40_000, dtype=np.float32))
        target = put(device, np.zeros(40_000, np.float32))
        for _ in range(50):
            device.launch(kernel, 10_000, [source, target], spec.meta(factor))
            got = get(device, target, np.float32, 40_000)
            if not (got == np.arange(40_000, dtype=np.float32) * np.float32(factor)).all():
                wrong.append(factor)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_equal_specs_compile_once(device, hand_kernel):
    first, second = device.compile([hand_kernel("t_same", SCALE, extra=1)] * 2)
    assert first is second
    assert device.compile([hand_kernel("t_same", SCALE, extra=1)])[0] is first


def test_kernels_of_one_unit_share_helpers(fresh_device, hand_kernel, put, get):
    half = "y0[g] = f32_to_f16(f16_to_f32(x0[g]) * {k}.0f);"
    specs = [
        hand_kernel(f"t_half{k}", half.format(k=k), dtypes=("float16", "float16"))
        for k in range(1, 8)
    ]
    device = fresh_device()
    values = np.array([0.5, -2, 65504, 6e-8], np.float16)
    source = put(device, values)
    for k, kernel in enumerate(device.compile(specs), 1):
        target = device.allocate(8)
        device.launch(kernel, 4, [source, target], specs[0].meta())
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(
                get(device, target, np.float16, 4), values * np.float16(k)
            )


def test_a_program_keeps_one_definition_of_each():
    helper = "INLINE int helper_a(int x) {\n    return x;\n}\n"
    first = helper + "void k1(void) {\n}\n"
    second = helper + "CONSTANT int t[1] = {1};\nvoid k2(void) {\n}\n"
    unit = program_text(C, [first, second])
    assert unit.count("int helper_a") == 1
    assert unit.index("helper_a(int") < unit.index("k1") < unit.index("t[1]") < unit.index("k2")


def test_a_rejected_kernel_is_named_and_spares_the_others(fresh_device, hand_kernel, put, get):
    device = fresh_device()
    good = hand_kernel("t_good", SCALE, extra=1)
    bad = hand_kernel("t_bad", "y0[g] = no_such_thing;")
    with pytest.raises(CompileError, match="t_bad") as caught:
        device.compile([good, bad])
    assert "no_such_thing" in caught.value.log
    assert "no_such_thing" in caught.value.source
    assert "no_such_thing" in str(caught.value)
    (kernel,) = device.compile([good])
    source, target = put(device, np.ones(4, np.float32)), device.allocate(16)
    device.launch(kernel, 1, [source, target], good.meta(9))
    assert (get(device, target, np.float32, 4) == 9).all()


def test_a_library_without_the_kernel_is_refused(fresh_device, hand_kernel):
    spec = hand_kernel("t_missing", "", raw="void t_other(void) {}\n")
    with pytest.raises(CompileError, match="t_missing"):
        fresh_device().compile([spec])


def test_launches_that_do_not_fit_are_refused(device, hand_kernel, fresh_device):
    spec = hand_kernel("t_scale", SCALE, extra=1)
    (kernel,) = device.compile([spec])
    a, b = device.allocate(64), device.allocate(64)
    with pytest.raises(LaunchError, match="takes 2 buffers, 1"):
        device.launch(kernel, 1, [a], spec.meta(1))
    with pytest.raises(LaunchError, match="takes 24 bytes of metadata, 16"):
        device.launch(kernel, 1, [a, b], spec.meta(1)[:16])
    with pytest.raises(LaunchError, match="0 groups"):
        device.launch(kernel, 0, [a, b], spec.meta(1))
    with pytest.raises(LaunchError, match="buffer of cpu"):
        device.launch(kernel, 1, [a, fresh_device().allocate(64)], spec.meta(1))
    with pytest.raises(LaunchError, match="did not compile"):
        device.launch(spec, 1, [a, b], spec.meta(1))


def test_copies_stay_inside_buffers(device, put, get):
    buffer = put(device, np.arange(16, dtype=np.uint8))
    other = device.allocate(16)
    device.copy(other, 4, buffer, 2, 8)
    np.testing.assert_array_equal(get(device, other, np.uint8, 12)[4:], np.arange(2, 10))
    for call in (
        lambda: device.copy_in(buffer, 9, memoryview(bytes(8))),
        lambda: device.copy_out(buffer, -1, memoryview(bytearray(4))),
        lambda: device.copy(other, 0, buffer, 15, 2),
    ):
        with pytest.raises(BackendError, match="does not fit"):
            call()


def test_large_copies_are_complete(device, put, get):
    data = np.random.default_rng(1).integers(0, 256, (9 << 20) + 13).astype(np.uint8)
    buffer = put(device, data)
    second = device.allocate(data.size)
    device.copy(second, 0, buffer, 0, data.size)
    np.testing.assert_array_equal(get(device, second, np.uint8, data.size), data)


def test_memory_of_another_library_is_used_in_place(device, hand_kernel, get):
    spec = hand_kernel("t_scale", SCALE, extra=1)
    (kernel,) = device.compile([spec])
    array, result = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    source = device.import_pointer(array.ctypes.data, array.nbytes, array)
    target = device.import_pointer(result.ctypes.data, result.nbytes, result)
    device.launch(kernel, 2, [source, target], spec.meta(2))
    np.testing.assert_array_equal(result, np.arange(8) * 2)
    assert device.address(source) == array.ctypes.data
    part = device.part(target, 16, 8)
    np.testing.assert_array_equal(get(device, part, np.float32, 2), [8, 10])
    with pytest.raises(BackendError, match="a part of 20 bytes at offset 16 does not fit"):
        device.part(target, 16, 20)
    event = device.record()
    event.wait()
    assert event.done()


@pytest.mark.parametrize("count", [15, 16, 17, 40])
def test_kernels_of_many_buffers(device, put, get, count):
    xs = [ir.input_(k, dt.int32) for k in range(count)]
    total = xs[0]
    for k, x in enumerate(xs[1:], 2):
        total = total + x * ir.const(k, dt.int32)
    spec = Map("t_many", (Operand(dt.int32),) * count, (Operand(dt.int32),), (total,))
    (kernel,) = device.compile([spec])
    data = np.random.default_rng(count).integers(-1000, 1000, (count, 300), np.int32)
    buffers = [put(device, row) for row in data] + [device.allocate(1200)]
    meta = pack(spec.meta(300, [], [Strided.words(0, 1, [])] * len(buffers)))
    device.launch(kernel, spec.groups(device.dialect, 300, 1), buffers, meta)
    want = (data * np.arange(1, count + 1, dtype=np.int32)[:, None]).sum(0, dtype=np.int32)
    np.testing.assert_array_equal(get(device, buffers[-1], np.int32, 300), want)
