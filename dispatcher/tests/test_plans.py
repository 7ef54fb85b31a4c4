"""Plans: what they tell, what they keep, and that new calls leave little behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _op
from tensorbus._plan import Plan, Step
from tensorbus._planner import Planner
from tensorbus._recent import Recent
from tensorbus._spec import Spec
from tensorbus._state import settings
from tensorbus_backends import dtypes as dt


def plan_of(op: str, *shapes: tuple[int, ...], **options: object) -> Plan:
    device = tb.get_device("ref")
    specs = [Spec.of(device, dt.float32, shape) for shape in shapes]
    return _op.OPS[op].plan(device, specs, options)


def test_a_plan_tells_its_kernels_before_anything_is_compiled() -> None:
    device = tb.get_device("ref")
    compiled = dict(device._kernels)
    plan = plan_of("std", (3, 501), axes=(1,), keepdims=False, correction=0.25)
    assert [k.label for k in plan.kernels] == ["mean", "std"]
    assert device._kernels == compiled
    x = np.random.default_rng(0).random((3, 501)).astype(np.float32)
    got = plan.run(tb.asarray(x, device=device)).numpy()
    assert np.allclose(got, x.std(axis=1), rtol=1e-3)


def test_an_op_inside_an_op_adds_its_steps() -> None:
    plan = plan_of("sort", (2, 9), axis=1, descending=False)
    labels = [s.kernel.label for s in plan.steps if isinstance(s, Step)]
    assert labels[0] == "sort_keys"
    assert labels[-1] == "gather"
    assert len(plan.results) == 2
    assert not plan.single


def test_scratch_memory_goes_when_its_last_step_is_done() -> None:
    device = tb.get_device("cpu")
    x = tb.asarray(np.random.default_rng(0).random(1 << 16).astype(np.float32), device=device)
    tb.sort(x)
    device.empty_cache()
    gc.collect()
    base = device.backend.memory().used
    out, _ = _op.apply(_op.OPS["sort"], [x], {"axis": 0, "descending": False})
    kept = device.backend.memory().used - base
    assert kept <= 2 * (out.nbytes + 8 * x.size)


def test_a_new_shape_of_a_dense_map_differs_in_one_word() -> None:
    device = tb.get_device("cpu")
    first = plan_of("add", (3, 50), (3, 50)).steps[0]
    second = plan_of("add", (7, 90), (7, 90)).steps[0]
    assert isinstance(first, Step)
    assert isinstance(second, Step)
    assert first.kernel is second.kernel
    assert first.words[1:] == second.words[1:]
    assert (first.words[0], second.words[0]) == (150, 630)
    x = tb.asarray(np.arange(630, dtype=np.float32).reshape(7, 90), device=device)
    assert ((x + x).numpy() == 2 * x.numpy()).all()


def test_a_value_may_be_a_view_of_an_operand() -> None:
    device = tb.get_device("ref")
    planner = Planner(device, [Spec.of(device, dt.float32, (4, 6))])
    (x,) = planner.operands
    plan = planner.finish(planner.view(x, (2,), (6,), 7))
    given = tb.asarray(np.arange(24, dtype=np.float32).reshape(4, 6), device=device)
    out = plan.run(given)
    assert out.numpy().tolist() == [7, 13]
    assert out._buffer is given._buffer
    assert not plan.steps


def test_two_ops_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="exp"):
        _op.Op("exp")


def test_equal_specs_are_one_object_and_none_is_kept_for_good() -> None:
    device = tb.get_device("ref")
    assert Spec.of(device, dt.int8, (3, 1, 5)) is Spec.of(device, dt.int8, (3, 1, 5), (5, 77, 1))
    assert Spec.of(device, dt.int8, (3, 5)) is not Spec.of(device, dt.int8, (3, 5), (1, 3))


def test_what_is_recent_stays_and_the_rest_goes() -> None:
    table: Recent[int, str] = Recent(10)
    for k in range(1000):
        table.keep(k, str(k))
        assert table.find(7) == "7" or k < 7
    assert len(table) <= 10
    assert table.find(7) == "7"
    assert table.find(8) is None
    assert table.find(999) == "999"
    table.clear()
    assert table.find(999) is None


def test_a_call_is_remembered_only_under_all_that_it_depends_on() -> None:
    x = tb.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    for _ in range(3):
        assert tb.sum(x, axis=0).shape == (4,)
        assert tb.sum(x, axis=1).shape == (3,)
        assert tb.sum(x, axis=0, keepdims=True).shape == (1, 4)
        assert tb.sum(x, axis=0, dtype=tb.float64).dtype is tb.float64
        assert tb.sum(x[:2], axis=0).numpy().tolist() == [4, 6, 8, 10]
        assert tb.reshape(x, (4, 3)).shape == (4, 3)
        assert tb.reshape(x, (2, 6)).shape == (2, 6)
        with pytest.raises(TypeError):
            tb.sum(x, axis=0.0)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            tb.sum(x, axis=0, keepdims=1)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            tb.reshape(x, (4.0, 3))  # type: ignore[arg-type]
        assert x[1:3].shape == (2, 4)
        with pytest.raises((TypeError, IndexError)):
            x[1.0:3]  # type: ignore[misc]
        with tb.trace() as t:
            tb.sum(x, axis=0)
            x[1:3]
        assert len(t) == 2


def test_a_remembered_check_of_bounds_is_made_again() -> None:
    x = tb.asarray([1.0, 2.0, 3.0])
    index = tb.asarray([0, 2])
    for _ in range(3):
        assert tb.take(x, index, axis=0).numpy().tolist() == [1, 3]
    index[0] = 3
    with pytest.raises(IndexError):
        tb.take(x, index, axis=0)


@pytest.mark.parametrize("value", [0.1, -0.0, 1e300, -1e300, 1e-45, float("inf"), 7, -3, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8", "uint64"])
def test_a_number_is_the_tensor_of_it(dtype: str, value: float) -> None:
    kind = dt.by_name(dtype)
    x = tb.asarray([1, 2, 5], dtype=kind)
    if isinstance(value, bool) or (kind.kind == "u" and value == -3):
        with pytest.raises((TypeError, OverflowError)):
            x * value
        return
    # A tensor that is recorded meets the number as a tensor.
    tensor = tb.asarray(value, dtype=None if isinstance(value, float) and kind.is_integer else kind)
    for call in (tb.multiply, tb.subtract, tb.less, tb.divide):
        for got, due in (
            (call(x, value), call(x, tensor)),
            (call(value, x), call(tensor, x)),
        ):
            assert got.dtype is due.dtype
            assert got.numpy().tobytes() == due.numpy().tobytes(), call.__name__


def test_threads_that_plan_one_op_all_get_results() -> None:
    settings().plans.clear()
    x = tb.asarray(np.arange(600, dtype=np.float32))
    wrong: list[object] = []

    def work() -> None:
        for n in range(2, 200):
            if n % 50 == 0:
                settings().plans.clear()  # evicted while others use them
            got = tb.sort(x[:n] * -1.0).numpy()
            if not (got == -np.arange(n - 1, -1, -1, dtype=np.float32)).all():
                wrong.append((n, got))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_many_shapes_numbers_and_masks_leave_little_behind() -> None:
    script = textwrap.dedent("""
        import gc, os
        import numpy as np, tensorbus as tb
        def resident():
            gc.collect()
            with open("/proc/self/statm") as f:
                return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        x = tb.asarray(np.random.default_rng(0).random((300, 300)).astype(np.float32))
        def rounds(first, last):
            for k in range(first, last):
                n, m = 1 + k % 290, 1 + k // 290 % 290
                part = x[:n, :m]
                part * (k / 7.0)
                tb.sum(part, axis=0)
                if k % 10 == 0:
                    part[part > 0.5]
                    tb.exp(part)
        rounds(0, 6000)
        before = resident()
        rounds(6000, 22000)
        print(resident() - before)
    """)
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 5 << 20
