"""Every primitive of the scalar IR and several skeletons: the interpreter's bits on each device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import Device
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import (
    MONOIDS,
    Contraction,
    Map,
    Operand,
    Reduce,
    Strided,
    Walk,
    pack,
)
from tensorbus_opencl import PLUGIN

if TYPE_CHECKING:
    from tensorbus_opencl.device import OpenCLDevice

COMPUTE = tuple(d for d in dt.ALL if d.compute is d)
W = Strided.words
N = 300


def values(dtype: DType, seed: int) -> NDArray[Any]:
    """N elements: special ones first, then random bit patterns, then ordinary numbers."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, N * dtype.itemsize, np.uint8)
    x = bits.view(dtype.numpy) if dtype is not dt.bool_ else bits < 128
    if dtype.is_float:
        x[::2] = rng.normal(0, 3, N // 2).astype(dtype.numpy)
        info = {16: 5e-8, 32: 1e-45, 64: 5e-324}[dtype.bits]
        special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, info, -info, 0.5, 2.5, -1.5]
    elif dtype.is_integer:
        x[::2] = rng.integers(max(dtype.min, -70), 70, N // 2)
        special = [0, 1, 2, 3, 31, 32, 63, 64, dtype.max, dtype.min, dtype.max - 1, dtype.min + 1]
    else:
        return x
    order = rng.permutation(len(special))
    x[: len(special)] = np.asarray(special, dtype.numpy)[order]
    return x


def primitives(d: DType) -> list[Expr]:
    """Each primitive that takes operands of dtype `d`."""
    a, b, c = (ir.input_(k, d) for k in range(3))
    result = [a < b, a <= b, a.eq(b), a.ne(b), ir.select(a < b, a, b)]
    if d.kind in "iuf":
        result += [a + b, a - b, a * b, -a, ir.fabs(a)]
    if d.is_float:
        result += [a / b, ir.fma(a, b, c), a * b + c, ir.sqrt(ir.fabs(a)), ir.sqrt(a)]
        result += [ir.floor(a), ir.ceil(a), ir.trunc(a), ir.rint(a)]
        result += [ir.bitcast(a, dt.by_name(f"{kind}{d.bits}")) for kind in ("int", "uint")]
        result.append(
            ir.table([0.0, -0.0, 0.1 + 0.4, 3e-8, 1e5], d, ir.cast(a < b, dt.int32) * 4)
            if d is dt.float64
            else ir.table([0.0, 1.5, -2.0], d, ir.cast(a < b, dt.int32))
        )
    if d.is_integer:
        result += [ir.idiv(a, b), ir.irem(a, b), ir.mulhi(a, b), a << b, a >> b, a >> 3, a << 3]
    if d.kind in "biu":
        result += [a & b, a | b, a ^ b, ~a]
    if d.bits >= 32 and d.is_integer:
        result.append(ir.bitcast(a, dt.by_name(f"float{d.bits}")))
    return result


def casts(d: DType) -> list[Expr]:
    """From dtype `d` to every compute dtype."""
    a = ir.input_(0, d)
    return [ir.cast(a, t) for t in COMPUTE if t is not d]


def elementwise(label: str, inputs: Sequence[DType], exprs: Sequence[Expr]) -> Map:
    outputs = tuple(Operand(e.dtype) for e in exprs)
    return Map(label, tuple(Operand(d) for d in inputs), outputs, tuple(exprs))


def stores(d: DType) -> Map:
    """Store values of compute dtype `d` as each storage dtype: one rounding, saturation or wrap."""
    a = ir.input_(0, d)
    kept = [t for t in dt.ALL if t.compute is not t]
    return Map("store", (Operand(d),), tuple(Operand(t) for t in kept), (a,) * len(kept))


def run(
    device: Device,
    kernels: Sequence[Any],
    arrays: Sequence[Sequence[NDArray[Any]]],
    words: Sequence[Sequence[int]],
    groups: Sequence[int],
) -> list[list[NDArray[Any]]]:
    """All arrays of each kernel after its run."""
    results = []
    for kernel, given, meta, count in zip(
        device.compile(kernels), arrays, words, groups, strict=True
    ):
        buffers = []
        for x in given:
            buffers.append(device.allocate(x.nbytes))
            device.copy_in(buffers[-1], 0, x.view(np.uint8).data)
        device.launch(kernel, count, buffers, pack(meta))
        got = []
        for x, buffer in zip(given, buffers, strict=True):
            y = np.empty_like(x)
            device.copy_out(buffer, 0, y.view(np.uint8).data)
            got.append(y)
        results.append(got)
    return results


def same(kernel: Any, got: Sequence[NDArray[Any]], want: Sequence[NDArray[Any]]) -> None:
    """Bits agree, any NaN being as good as any other."""
    for argument, g, w in zip(kernel.arguments(), got, want, strict=True):
        if argument.dtype.is_float:
            with np.errstate(invalid="ignore"):
                g32, w32 = g.astype(np.float64), w.astype(np.float64)
            equal = (np.isnan(g32) & np.isnan(w32)) | (
                g.view(np.uint8).reshape(g.size, -1) == w.view(np.uint8).reshape(w.size, -1)
            ).all(1)
        else:
            equal = g == w
        bad = np.flatnonzero(~equal)
        assert not bad.size, (
            f"{kernel.name} {argument.name} ({argument.dtype}): {bad.size} differ, first at "
            f"{bad[0]}: {g[bad[0]]!r} instead of {w[bad[0]]!r}"
        )


def check(device: Device, kernels: Sequence[Map]) -> None:
    arrays = [
        [values(o.dtype, 11 * k + 1) for k, o in enumerate(m.inputs)]
        + [np.zeros(N, o.dtype.numpy) for o in m.outputs]
        for m in kernels
    ]
    words = [m.meta(N, [], [W(0, 1, [])] * (len(m.inputs) + len(m.outputs))) for m in kernels]
    results = run(device, kernels, arrays, words, [m.groups(device.dialect, N, 1) for m in kernels])
    for kernel, given, meta, got in zip(kernels, arrays, words, results, strict=True):
        kernel.interpret(given, np.asarray(meta, np.int64), kernel.groups(None, N, 1))
        same(kernel, got, given)


def test_primitives(device: OpenCLDevice) -> None:
    check(device, [elementwise("prim", [d, d, d], primitives(d)) for d in COMPUTE])


def test_conversions(device: OpenCLDevice) -> None:
    check(device, [elementwise("cast", [d], casts(d)) for d in COMPUTE])


@pytest.mark.parametrize("group", ["", "5"])
def test_constants_beyond_integers_are_rounded(
    device: OpenCLDevice, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PoCL's rint of such a constant made a kernel that did nothing at all, for threads too.
    def rounded(d: DType) -> list[Expr]:
        large = [2.0**k for k in (22, 31, 32, 63, 64, 120)] + [-(2.0**63), math.inf, -2.5, -0.25]
        return [ir.rint(ir.const(v, d)) + ir.input_(0, d) * 0.0 for v in large]

    monkeypatch.setenv("TENSORBUS_OPENCL_GROUP", group)
    own: Any = PLUGIN.open(device.info.index) if group else device
    check(own, [elementwise("rint", [d], rounded(d)) for d in (dt.float32, dt.float64)])


def test_tables_hold_infinities(device: OpenCLDevice) -> None:
    entries = [math.inf, -math.inf, math.nan, -0.0, 1.5]
    at = ir.cast(ir.irem(ir.index(), 5), dt.int32)
    tables = [ir.table(entries, d, at) for d in (dt.float32, dt.float64)]
    check(device, [elementwise("table", [dt.float32], tables)])


def test_storage_dtypes(device: OpenCLDevice) -> None:
    kernels = [stores(d) for d in COMPUTE]
    narrow = [elementwise("load", [d], [ir.input_(0, d)]) for d in (dt.float16, dt.bfloat16)]
    check(device, kernels + narrow)


def test_loops_and_launch_scalars(device: OpenCLDevice) -> None:
    x, p = ir.input_(0, dt.float32), ir.param(0, dt.float32)

    def step(i: Expr, value: Expr, count: Expr) -> list[Expr]:
        return [ir.fma(value, p, x), count + i]

    times = ir.cast(ir.irem(ir.index(), 5), dt.int32)
    value, count = ir.repeat(times, [x, ir.const(0, dt.int32)], step)
    outputs = (Operand(dt.float32), Operand(dt.int32))
    kernel = Map("loop", (Operand(dt.float32),), outputs, (value, count), (dt.float32,))
    half = int(np.float32(0.5).view(np.int32))
    words = kernel.meta(N, [], [W(0, 1, [])] * 3, [half])
    given = [values(dt.float32, 3), np.zeros(N, np.float32), np.zeros(N, np.int32)]
    (got,) = run(device, [kernel], [given], [words], [kernel.groups(device.dialect, N, 1)])
    kernel.interpret(given, np.asarray(words), 1)
    same(kernel, got, given)


def skeletons(n: int) -> list[tuple[Any, list[NDArray[Any]], list[int], Callable[[Any], int]]]:
    """A reduction by rows and one by columns, a strided map, two products."""
    f, i = Operand(dt.float32), Operand(dt.int32)
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, 3 * n).astype(np.float32)
    row = Reduce("sum", (f,), ir.input_(0, dt.float32), MONOIDS["sum"], dt.float32)
    column = Reduce("max", (i,), ir.input_(0, dt.int32), MONOIDS["max"], dt.int32, layout="col")
    strided = Map(
        "sub",
        (Operand(dt.float32, "g"), Operand(dt.float32, "s")),
        (f,),
        (ir.input_(0, dt.float32) - ir.input_(1, dt.float32),),
    )
    product = Contraction.product(dt.float32)
    exact = Contraction.product(dt.int8)
    a = rng.normal(0, 1, 9 * 300).astype(np.float32)
    b = rng.normal(0, 1, 300 * 70).astype(np.float32)
    walks = [Walk([], [300], [1]), Walk([], [70], [1]), Walk([], [70], [1])]
    whole = [rng.integers(-128, 128, s).astype(np.int8) for s in (2700, 21000)]
    return [
        (
            row,
            [x, np.zeros(3 * -(-n // 8192), np.float32)],
            row.meta(n, 1, [3], [W(0, 1, [n])], [1]),
            lambda d: row.groups(d, n, 1, 3),
        ),
        (
            column,
            [rng.integers(-9, 9, 40 * 75, np.int32), np.zeros(75, np.int32)],
            column.meta(40, 75, [], [W(0, 1, [])], [75]),
            lambda d: column.groups(d, 40, 75, 1),
        ),
        (
            strided,
            [x, x[:3].copy(), np.zeros(3 * n, np.float32)],
            strided.meta(n, [3], [W(3 * n - 1, -1, [-n]), W(0, 0, [1]), W(0, 1, [n])]),
            lambda d: strided.groups(d, n, 3),
        ),
        (
            product,
            [a, b, np.zeros(630, np.float32)],
            product.meta([], [9], [70], [300], walks),
            lambda d: product.groups(d, 9, 70, 1),
        ),
        (
            exact,
            [*whole, np.zeros(630, np.int8)],
            exact.meta([], [9], [70], [300], walks),
            lambda d: exact.groups(d, 9, 70, 1),
        ),
    ]


def check_skeletons(device: OpenCLDevice) -> None:
    rows = skeletons(9000)
    kernels = [r[0] for r in rows]
    words = [r[2] for r in rows]
    got = run(device, kernels, [r[1] for r in rows], words, [r[3](device.dialect) for r in rows])
    for (kernel, given, meta, groups), result in zip(rows, got, strict=True):
        kernel.interpret(given, np.asarray(meta, np.int64), groups(None))
        same(kernel, result, given)


def test_skeletons(device: OpenCLDevice) -> None:
    check_skeletons(device)


@pytest.mark.parametrize("group", [1, 3, 32, 200])
def test_group_size_changes_no_bit(make: Callable[..., OpenCLDevice], group: int) -> None:
    device = make(group)
    assert "threads" in str(device.dialect)
    check_skeletons(device)
