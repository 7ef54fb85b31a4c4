"""Contractions: convolutions and their gradients, merged dimensions, prologues and epilogues.

The oracle of a convolution lists, for each element of the result by itself, the factors that meet
in it, in the written order (docs/order.md): a padded position is a product with +0, a hole of a
stride is no product.  It knows neither places nor steps of kernels.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, interp, ir, mathlib
from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import Contraction, Limit, Map, Operand, Strided, Walk
from tensorbus_backends.kernels.base import bits_of
from tensorbus_backends.scalar import maximum
from tensorbus_cpu.dialect import C

sys.path.insert(0, str(Path(__file__).parent))
from gccrun import CC, both, run

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")
Array = NDArray[Any]
Pairs = list[tuple[Any, Any]]


def data(dtype: DType, *shape: int, seed: int = 0) -> Array:
    rng = np.random.default_rng([seed, *shape])
    if dtype.is_integer:
        return rng.integers(dtype.min, dtype.max, shape, dtype=dtype.numpy, endpoint=True)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-9, 9, shape)
    return x.astype(dtype.numpy)


def summed(pairs: Sequence[Pairs], dtype: DType) -> Array:
    """Each list's products in blocks of 256, as docs/order.md adds them; not yet stored."""
    acc = dtype.compute
    fma = {dt.float32: interp.fma32, dt.float64: interp.fma64}.get(acc)
    longest = max(map(len, pairs))
    factors = np.zeros((2, len(pairs), longest), acc.numpy)
    for k, products in enumerate(pairs):
        for side in range(2):
            factors[side, k, : len(products)] = [p[side] for p in products]
    counts = np.asarray([len(p) for p in pairs])
    minus = acc.numpy.type(-0.0 if acc.is_float else 0)
    total = np.where(counts > 0, minus, acc.numpy.type(0))
    with np.errstate(all="ignore"):
        for begin in range(0, longest, 256):
            block = np.full(len(pairs), minus)
            for k in range(begin, min(begin + 256, longest)):
                a, b = factors[:, :, k]
                next_ = fma(a, b, block) if fma else block + a * b
                block = np.where(k < counts, next_, block)
            total = np.where(begin < counts, total + block, total)
    return total


@dataclass(frozen=True)
class Convolution:
    """Sizes of one: images, groups, channels and filters of a group, window, and how it moves."""

    images: int = 2
    groups: int = 1
    channels: int = 2
    filters: int = 3
    size: tuple[int, int] = (7, 6)
    window: tuple[int, int] = (3, 2)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def out(self) -> tuple[int, int]:
        """Positions of the window."""
        h, w = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                self.size, self.padding, self.dilation, self.window, self.stride, strict=True
            )
        )
        return h, w

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of images, filters and result, channels split in groups."""
        g, c, f = self.groups, self.channels, self.filters
        return (
            (self.images, g, c, *self.size),
            (g, f, c, *self.window),
            (self.images, g, f, *self.out),
        )

    def meets(self, at: Sequence[int], tap: Sequence[int]) -> tuple[int, int] | None:
        """Where in the image a position's window has its tap; None in the padding."""
        y, x = (
            a * s + t * d - p
            for a, s, t, d, p in zip(at, self.stride, tap, self.dilation, self.padding, strict=True)
        )
        return (y, x) if 0 <= y < self.size[0] and 0 <= x < self.size[1] else None

    def forward(self, x: Array, w: Array) -> list[Pairs]:
        found = []
        images, g, f, *out = self.shapes[2]
        for n, group, o, *at in itertools.product(*map(range, (images, g, f, *out))):
            products = []
            for c, *tap in itertools.product(range(self.channels), *map(range, self.window)):
                place = self.meets(at, tap)
                value = x.dtype.type(0) if place is None else x[(n, group, c, *place)]
                products.append((value, w[(group, o, c, *tap)]))
            found.append(products)
        return found

    def of_filters(self, x: Array, g: Array) -> list[Pairs]:
        found = []
        for group, o, c, *tap in itertools.product(*map(range, self.shapes[1])):
            products = []
            for n, *at in itertools.product(range(self.images), *map(range, self.out)):
                place = self.meets(at, tap)
                value = x.dtype.type(0) if place is None else x[(n, group, c, *place)]
                products.append((g[(n, group, o, *at)], value))
            found.append(products)
        return found

    def of_images(self, w: Array, g: Array) -> list[Pairs]:
        found = []
        for n, group, c, *place in itertools.product(*map(range, self.shapes[0])):
            products = []
            for o, *tap in itertools.product(range(self.filters), *map(range, self.window)):
                moved = [
                    y + p - t * d
                    for y, p, t, d in zip(place, self.padding, tap, self.dilation, strict=True)
                ]
                if any(m % s for m, s in zip(moved, self.stride, strict=True)):
                    continue
                at = [m // s for m, s in zip(moved, self.stride, strict=True)]
                inside = all(0 <= a < n for a, n in zip(at, self.out, strict=True))
                value = g[(n, group, o, *at)] if inside else g.dtype.type(0)
                products.append((w[(group, o, c, *tap)], value))
            found.append(products)
        return found


def steps(shape: Sequence[int]) -> list[int]:
    """C-order strides."""
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


CONVOLUTIONS = {
    "plain": Convolution(),
    "padding": Convolution(padding=(2, 1)),
    "stride": Convolution(stride=(2, 3), padding=(1, 1)),
    "dilation": Convolution(size=(9, 7), dilation=(3, 2), padding=(2, 2)),
    "groups": Convolution(groups=3, channels=2, filters=2, padding=(1, 1)),
    "all": Convolution(
        groups=2, size=(9, 8), window=(3, 3), stride=(2, 3), padding=(3, 2), dilation=(2, 2)
    ),
    "holes alone": Convolution(size=(6, 6), window=(1, 1), stride=(2, 2)),
    "long": Convolution(
        images=1, channels=33, filters=2, size=(4, 3), window=(3, 3), padding=(1, 1)
    ),
    "wide": Convolution(
        images=1, channels=1, filters=70, size=(3, 3), window=(2, 2), padding=(1, 1)
    ),
    "far": Convolution(images=1, size=(3, 30), window=(1, 3), padding=(0, 4)),
}


def launch(
    kernel: Contraction,
    sizes: Sequence[Sequence[int]],
    walks: Sequence[Walk],
    arrays: Sequence[Array],
    params: Sequence[int] = (),
) -> Array:
    """The result of the compiled kernel, which has to have the interpreter's bits."""
    batch, rows, columns, inner = sizes
    words = kernel.meta(batch, rows, columns, inner, walks, params)
    groups = kernel.groups(C, math.prod(rows), math.prod(columns), math.prod(batch))
    flat = [a.reshape(-1).copy() for a in arrays]
    both(kernel, flat, words, groups)
    run(kernel, flat, words, groups)
    return flat[-1]


def same(got: Array, want: Array) -> None:
    bits = f"u{got.itemsize}"
    wrong = got.view(bits) != want.reshape(-1).view(bits)
    if got.dtype.kind not in "iu":
        wrong &= ~(np.isnan(got.astype(float)) & np.isnan(want.reshape(-1).astype(float)))
    assert not wrong.any(), (np.flatnonzero(wrong)[:5], got[wrong][:5])


def window(conv: Convolution, axis: int) -> tuple[list[int], list[int]]:
    """Steps of positions and of taps along one axis of an image's coordinates."""
    at, tap = [0, 0], [0, 0]
    at[axis], tap[axis] = conv.stride[axis], conv.dilation[axis]
    return at, tap


def images(conv: Convolution, order: str) -> Walk:
    """The images as positions meet taps: "rows" are positions, k is channels and taps, and so on.

    Args:
        conv: The convolution.
        order: "positions" (rows) and k, "taps" (k) and positions, or "filters": k is images and
            positions, columns are channels and taps.
    """
    of_image, of_group, of_channel, line, _ = steps(conv.shapes[0])
    (sy, sx), (dy, dx), (py, px) = conv.stride, conv.dilation, conv.padding
    at, tap = [sy * line, sx], [of_channel, dy * line, dx]
    found = []
    for axis in range(2):
        a, t = window(conv, axis)
        found.append((conv.size[axis], -conv.padding[axis], a, [0, *t]))
    start = -py * line - px
    if order == "positions":
        return Walk([of_image, of_group], at, tap, start, [Limit(*f) for f in found])
    if order == "taps":
        limits = [Limit(n, s, t, a) for n, s, a, t in found]
        return Walk([of_image, of_group], tap, at, start, limits)
    limits = [Limit(n, s, [0, *a], t) for n, s, a, t in found]
    return Walk([of_group], [of_image, *at], tap, start, limits)


@pytest.mark.parametrize("dtype", [dt.float32, dt.float64, dt.float16, dt.int32], ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str, dtype: DType) -> None:
    """Two ways to lay the result out as rows and columns: the same bits, the oracle's."""
    conv = CONVOLUTIONS[name]
    x, w = data(dtype, *conv.shapes[0]), data(dtype, *conv.shapes[1], seed=1)
    due = summed(conv.forward(interp.widen(x, dtype), interp.widen(w, dtype)), dtype)
    for got in convolved(conv, x, w, dtype):
        same(got, interp.narrow(due, dtype))


def convolved(conv: Convolution, x: Array, w: Array, dtype: DType) -> list[Array]:
    """Results with positions as rows and filters as columns, and the other way round."""
    out = np.zeros(conv.shapes[2], dtype.numpy)
    plain = Contraction("convolution", dtype, dtype, dtype, dtype.compute, unit=False)
    batch, inner = [conv.images, conv.groups], [conv.channels, *conv.window]
    wg, wf, *taps = steps(conv.shapes[1])
    on, og, of, oy, ox = steps(conv.shapes[2])
    kernel = replace(plain, dims=(2, 1, 3), limits=(2, 0))
    walks = [
        images(conv, "positions"), Walk([0, wg], taps, [wf]), Walk([on, og], [oy, ox], [of])
    ]  # fmt: skip
    found = [launch(kernel, (batch, conv.out, [conv.filters], inner), walks, [x, w, out])]
    kernel = replace(plain, dims=(1, 2, 3), limits=(0, 2))
    walks = [
        Walk([0, wg], [wf], taps), images(conv, "taps"), Walk([on, og], [of], [oy, ox])
    ]  # fmt: skip
    found.append(launch(kernel, (batch, [conv.filters], conv.out, inner), walks, [w, x, out]))
    return found


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradient_of_filters(name: str) -> None:
    conv, dtype = CONVOLUTIONS[name], dt.float32
    x, g = data(dtype, *conv.shapes[0]), data(dtype, *conv.shapes[2], seed=2)
    due = summed(conv.of_filters(x, g), dtype)
    kernel = Contraction(
        "filters", dtype, dtype, dtype, dtype, dims=(1, 3, 3), unit=False, limits=(0, 2)
    )
    gn, gg, gf, gy, gx = steps(conv.shapes[2])
    wg, wf, *taps = steps(conv.shapes[1])
    walks = [Walk([gg], [gf], [gn, gy, gx]), images(conv, "filters"), Walk([wg], [wf], taps)]
    sizes = ([conv.groups], [conv.filters], conv.shapes[1][2:], [conv.images, *conv.out])
    same(launch(kernel, sizes, walks, [g, x, np.zeros(conv.shapes[1], np.float32)]), due)


def phase(first: int, stride: int, dilation: int, padding: int, taps: int) -> tuple[int, int, int]:
    """Taps that meet pixels ``first + i * stride``: the first one, their distance, their number."""
    meeting = [t for t in range(taps) if (first + padding - t * dilation) % stride == 0]
    step = stride // math.gcd(stride, dilation)
    return (meeting[0] if meeting else 0), step, len(meeting)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradient_of_images(name: str) -> None:
    """A launch for each remainder of a pixel by the stride: what is left has no holes."""
    conv, dtype = CONVOLUTIONS[name], dt.float32
    w, g = data(dtype, *conv.shapes[1]), data(dtype, *conv.shapes[2], seed=2)
    due = summed(conv.of_images(w, g), dtype)
    kernel = Contraction(
        "images", dtype, dtype, dtype, dtype, dims=(1, 2, 3), unit=False, limits=(0, 2)
    )
    xn, xg, xc, xy, xx = steps(conv.shapes[0])
    wg, wf, wc, wy, wx = steps(conv.shapes[1])
    gn, gg, gf, gy, gx = steps(conv.shapes[2])
    out = np.full(conv.shapes[0], 7, np.float32)
    for first in itertools.product(*map(range, conv.stride)):
        parts = []
        for axis, (taps, line) in enumerate(zip(conv.window, (gy, gx), strict=True)):
            s, d, p = conv.stride[axis], conv.dilation[axis], conv.padding[axis]
            tap, step, count = phase(first[axis], s, d, p, taps)
            base = (first[axis] + p - tap * d) // s
            pixels = len(range(first[axis], conv.size[axis], s))
            parts.append((tap, step, count, base, step * d // s, pixels, line))
        (ty, sy, ny, by, ry, hy, _), (tx, sx, nx, bx, rx, hx, _) = parts
        walks = [
            Walk([0, wg], [wc], [wf, sy * wy, sx * wx], ty * wy + tx * wx),
            Walk(
                [gn, gg], [gf, -ry * gy, -rx * gx], [gy, gx], by * gy + bx * gx,
                [
                    Limit(conv.out[0], by, [0, -ry, 0], [1, 0]),
                    Limit(conv.out[1], bx, [0, 0, -rx], [0, 1]),
                ],
            ),
            Walk(
                [xn, xg], [xc], [conv.stride[0] * xy, conv.stride[1] * xx],
                first[0] * xy + first[1] * xx,
            ),
        ]  # fmt: skip
        sizes = ([conv.images, conv.groups], [conv.channels], [hy, hx], [conv.filters, ny, nx])
        if hy and hx:
            out = launch(kernel, sizes, walks, [w, g, out]).reshape(out.shape)
    same(out.reshape(-1), due)


def test_a_padded_position_is_a_product_with_zero() -> None:
    """Beyond the image an infinite filter gives NaN, and zeros have a product's sign."""
    conv = Convolution(images=1, channels=1, filters=3, size=(2, 2), padding=(3, 3))
    x = np.ones(conv.shapes[0], np.float32)
    w = np.zeros(conv.shapes[1], np.float32)
    w[0, 0], w[0, 1] = np.inf, -1.0
    due = summed(conv.forward(x, w), dt.float32)
    for flat in convolved(conv, x, w, dt.float32):
        same(flat, due)
        got = flat.reshape(conv.shapes[2])
        assert np.isnan(got[0, 0, 0, 0, 0])
        assert np.signbit(got[0, 0, 1, 0, 0])
        assert not np.signbit(got[0, 0, 2]).any()


# -- several dimensions -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [dt.float32, dt.float16, dt.int8], ids=str)
@pytest.mark.parametrize("sizes", [((3, 5), (4, 17), (6, 50)), ((2, 2, 3), (2, 3, 2), (2, 3, 2))])
def test_dimensions_that_do_not_merge(sizes: tuple[tuple[int, ...], ...], dtype: DType) -> None:
    """What transposed operands give is what their packed copies give."""
    rows, columns, inner = sizes
    a, b = data(dtype, *inner[::-1], *rows[::-1]), data(dtype, *columns[::-1], *inner[::-1], seed=1)
    dims = (len(rows), len(columns), len(inner))
    general = Contraction("general", dtype, dtype, dtype, dtype.compute, dims=dims, unit=False)
    backwards = [steps(t.shape)[::-1] for t in (a, b)]
    depth = len(inner)
    walks = [
        Walk([], backwards[0][: len(rows)], backwards[0][len(rows) :]),
        Walk([], backwards[1][:depth], backwards[1][depth:]),
        Walk([], steps((*rows, *columns))[: len(rows)], steps(columns)),
    ]
    m, n, k = map(math.prod, sizes)
    out = np.zeros(m * n, dtype.numpy)
    got = launch(general, ([], rows, columns, inner), walks, [a, b, out])
    left, right = (np.ascontiguousarray(t.transpose(range(t.ndim)[::-1])) for t in (a, b))
    flat = [Walk([], [k], [1]), Walk([], [n], [1]), Walk([], [n], [1])]
    arrays = [left, right, out]
    same(got, launch(Contraction.product(dtype), ([], [m], [n], [k]), flat, arrays))


def test_a_kernel_knows_numbers_of_dimensions_only() -> None:
    wide = Contraction(
        "x", dt.float32, dt.float32, dt.float32, dt.float32, (2, 1, 3), False, (2, 0)
    )
    assert wide.name == replace(wide).name
    others = [replace(wide, dims=(2, 1, 2)), replace(wide, limits=(1, 0)),
              replace(wide, dims=(1, 2, 3)), replace(wide, limits=(0, 2))]  # fmt: skip
    assert len({wide.name, *(o.name for o in others)}) == 5
    with pytest.raises(ValueError, match="walks no others"):
        wide.meta([], [1], [1], [1], [])
    with pytest.raises(ir.IRError, match="factor"):
        Contraction("x", dt.float16, dt.float16, dt.float16, dt.float64)


# -- prologue and epilogue ----------------------------------------------------------------------


def relu(x: ir.Expr) -> ir.Expr:
    return maximum(x, ir.const(0, x.dtype))


def gelu(x: ir.Expr) -> ir.Expr:
    half = ir.const(0.5, x.dtype)
    root = ir.const(float(np.sqrt(0.5).astype(x.dtype.numpy)), x.dtype)
    return half * x * (1.0 + mathlib.erf(x * root))


@pytest.mark.parametrize("dtype", [dt.float32, dt.float64, dt.float16, dt.bfloat16], ids=str)
@pytest.mark.parametrize("activation", [relu, gelu])
@pytest.mark.parametrize("rounded", [False, True])
def test_linear_with_activation(
    activation: Callable[[ir.Expr], ir.Expr], dtype: DType, rounded: bool
) -> None:
    """One launch has the bits of a product, an addition, a store where asked, and a map."""
    m, n, k, acc = 5, 70, 300, dtype.compute
    x, w, bias = data(dtype, m, k), data(dtype, n, k, seed=1), data(dtype, n, seed=2)
    total = ir.input_(0, acc) + ir.input_(1, dtype)
    body = activation(ir.round_to(total, dtype) if rounded else total)
    plain = Contraction("linear", dtype, dtype, acc, acc, unit=False)
    fused = replace(plain, out=dtype, epilogue=body, extras=(dtype,))
    sizes = ([], [m], [n], [k])
    walks = [Walk([], [k], [1]), Walk([], [1], [k])]
    result = Walk([], [n], [1])
    got = launch(
        fused, sizes, [*walks, Walk([], [0], [1]), result],
        [x, w, bias, np.zeros(m * n, dtype.numpy)],
    )  # fmt: skip
    product = launch(plain, sizes, [*walks, result], [x, w, np.zeros(m * n, acc.numpy)])
    middle = np.zeros(m * n, dtype.numpy if rounded else acc.numpy)
    between = dtype if rounded else acc
    out = np.zeros(m * n, dtype.numpy)
    one = Strided.words(0, 1, [n])
    along = Strided.words(0, 1, [0])
    add = Map("add", (Operand(acc), Operand(dtype)), (Operand(between),), (total,))
    run(add, [product, bias, middle], add.meta(n, [m], [one, along, one]), m)
    act = Map("act", (Operand(between),), (Operand(dtype),), (activation(ir.input_(0, between)),))
    run(act, [middle, out], act.meta(m * n, [], [one, one]), act.groups(C, m * n, 1))
    same(got, out)


def test_prologues_params_and_no_products() -> None:
    """Factors of other dtypes than their elements; without products the sum is +0."""
    f, h, i = dt.float32, dt.float16, dt.int8
    a, b, e = data(h, 3, 4), data(i, 4, 66), data(dt.float64, 3, 66)
    left = ir.input_(0, h) * ir.param(0, f)
    right = ir.cast(ir.input_(0, i), f) - ir.param(1, f)
    done = ir.cast(ir.input_(0, f), dt.float64) * ir.input_(1, dt.float64)
    kernel = Contraction(
        "made", h, i, dt.float64, f, prologue=(left, right), epilogue=done,
        extras=(dt.float64,), params=(f, f),
    )  # fmt: skip
    params = [bits_of(0.5, f), bits_of(3.0, f)]
    plane = Walk([], [66], [1])
    out = np.zeros(3 * 66)
    got = launch(
        kernel, ([], [3], [66], [4]), [Walk([], [4], [1]), plane, plane, plane], [a, b, e, out],
        params,
    )  # fmt: skip
    x, y = a.astype(np.float32) * np.float32(0.5), b.astype(np.float32) - np.float32(3)
    pairs = [[(x[r, k], y[k, c]) for k in range(4)] for r in range(3) for c in range(66)]
    same(got, summed(pairs, f).astype(np.float64) * e.reshape(-1))
    empty = Contraction.product(f)
    nothing = np.full(6, 7, np.float32)
    sizes: tuple[list[int], ...] = ([], [2], [3], [0])
    walks = [Walk([], [0], [1]), Walk([], [3], [1]), Walk([], [3], [1])]
    got = launch(empty, sizes, walks, [np.zeros(1, np.float32)] * 2 + [nothing])
    assert not got.any()
    assert not np.signbit(got).any()
