"""Products in terms of addresses: a BLAS that knows nothing else gives NumPy's answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tensorbus_backends import dtypes as dt, gemm
from tensorbus_backends.contract import NativeCase

ORDERS = {"row-major": lambda i, j, ld: i * ld + j, "column-major": lambda i, j, ld: i + j * ld}


def at(memory, offset, rows, columns, ld, trans, order):
    """Elements of op(X), one by one, as the BLAS standard defines their places."""
    stored = (columns, rows) if trans else (rows, columns)
    assert ld >= max(1, stored[order == "row-major"])
    i, j = np.indices(stored)
    places = offset + ORDERS[order](i, j, ld)
    assert places.min() >= 0, "read in front of the memory"
    found = memory[places]  # IndexError: read behind it
    return found.T if trans else found


def blas(order, p, first, second, out, offset_a, offset_b, offset_c):
    """C = op(A) op(B) from flat memories, written where C lies."""
    a = at(first, offset_a, p.m, p.k, p.lda, p.trans_a, order)
    b = at(second, offset_b, p.k, p.n, p.ldb, p.trans_b, order)
    assert p.ldc >= max(1, p.n if order == "row-major" else p.m)
    i, j = np.indices((p.m, p.n))
    out[offset_c + ORDERS[order](i, j, p.ldc)] = a @ b


def run_by_offsets(order, p, memories, starts):
    for row in p.offsets:
        blas(order, p, *memories, *(row + starts))


def run_by_strides(order, p, memories, starts):
    for k in range(p.batch):
        blas(order, p, *memories, *(s + k * t for s, t in zip(starts, p.strides, strict=True)))


def lay_out(draw, shape):
    """(strides, memory, start) of a random view of distinct numbers, no larger than needed."""
    order = list(draw(st.permutations(range(len(shape)))))
    unit = draw(st.sampled_from([-1, -1, -2, -2, 0]))
    if unit:
        order.remove(len(shape) + unit)
        order.insert(0, len(shape) + unit)
    strides, step = [0] * len(shape), 1
    for axis in order:
        odd = axis < len(shape) - 2 or draw(st.integers(0, 9)) == 0
        strides[axis] = step * (draw(st.sampled_from([1, 1, -1, 0])) if odd else 1)
        step = step * shape[axis] + draw(st.sampled_from([0, 0, 5])) * (step > 1)
    low = sum(min(0, s * (n - 1)) for s, n in zip(strides, shape, strict=True))
    high = sum(max(0, s * (n - 1)) for s, n in zip(strides, shape, strict=True))
    return tuple(strides), np.arange(3, 3 + high - low + 1), -low


def view(memory, start, shape, strides):
    return np.lib.stride_tricks.as_strided(memory[start:], shape, [8 * s for s in strides])


@st.composite
def products(draw):
    """A random case with its memories: broadcast, transposed, padded, reversed, interleaved."""
    sizes = st.integers(1, 4)
    m, k, n = draw(sizes), draw(sizes), draw(sizes)
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    operands = []
    for inner in ((m, k), (k, n)):
        own = [draw(st.sampled_from([d, d, 1])) for d in batch]
        shape = (*own[draw(st.integers(0, len(batch))) :], *inner)
        operands.append((shape, *lay_out(draw, shape)))
    (a, *_), (b, *_) = operands
    out = (*np.broadcast_shapes(a[:-2], b[:-2]), m, n)
    plain = tuple(s // 8 for s in np.zeros(out).strides)
    shapes = (a, b, out)
    strides = (operands[0][1], operands[1][1], plain)
    return NativeCase("matmul", (dt.int64,) * 3, shapes, strides), operands


@settings(max_examples=600, deadline=None, derandomize=True)
@given(products())
def test_the_plan_of_every_supported_product_is_right(made):
    case, operands = made
    if not gemm.supported(case, [dt.int64]):
        return
    p = gemm.plan(case.shapes, case.strides)
    (a_shape, a_strides, a, a_start), (b_shape, b_strides, b, b_start) = operands
    out = case.shapes[2]
    expected = view(a, a_start, a_shape, a_strides) @ view(b, b_start, b_shape, b_strides)
    size = int(np.prod(out))
    ways = [(p, "row-major", 1), (p.column_major(), "column-major", -1)]
    for (q, order, turn), how in itertools.product(ways, (run_by_offsets, run_by_strides)):
        if how is run_by_strides and q.strides is None:
            continue
        c = np.full(size, -1)
        how(order, q, [*(a, b)[::turn], c], [*(a_start, b_start)[::turn], 0])
        assert (c.reshape(out) == expected).all(), (order, how)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(products())
def test_every_matrix_with_a_unit_stride_and_apart_rows_is_supported(made):
    case, _ = made

    def addressable(shape, strides):
        for x, y in ((-2, -1), (-1, -2)):
            (rows, down), (columns, across) = ((shape[k], strides[k]) for k in (x, y))
            if (across == 1 or columns == 1) and (down >= columns or rows == 1):
                return True
        return False

    expected = all(map(addressable, case.shapes[:2], case.strides[:2]))
    assert gemm.supported(case, [dt.int64]) == expected


def planned(a, b):
    shape = np.matmul(np.zeros(a.shape), np.zeros(b.shape)).shape
    arrays = (a, b, np.zeros(shape))
    strides = tuple(tuple(s // 8 for s in x.strides) for x in arrays)
    case = NativeCase("matmul", (dt.float64,) * 3, tuple(x.shape for x in arrays), strides)
    assert gemm.supported(case, [dt.float64])
    return gemm.plan(case.shapes, case.strides)


def zeros(*shape):
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(zeros(2, 3, 4, 5), zeros(5, 6), (24, 5, 1), id="a batch times one matrix"),
        pytest.param(zeros(7, 1, 5), zeros(5, 6), (7, 5, 1), id="a batch of rows"),
        pytest.param(zeros(7, 2, 5)[:, :1], zeros(5, 6), (7, 10, 1), id="a batch of spaced rows"),
        pytest.param(zeros(2, 4, 5), zeros(1, 5, 6), (8, 5, 1), id="broadcast by length 1"),
        pytest.param(zeros(3, 4, 5)[::2], zeros(5, 6), (4, 5, 2), id="rows do not follow"),
        pytest.param(zeros(2, 5, 4).mT, zeros(5, 6), (4, 4, 2), id="transposed"),
        pytest.param(zeros(2, 4, 5), zeros(2, 5, 6), (4, 5, 2), id="two batches"),
        pytest.param(
            np.broadcast_to(zeros(1, 1, 5), (7, 1, 5)), zeros(5, 6), (1, 5, 7), id="the same row"
        ),
        pytest.param(zeros(1, 1, 4, 5), zeros(5, 6), (4, 5, 1), id="a batch of one"),
    ],
)
def test_a_batch_becomes_one_tall_product_where_it_can(a, b, expected):
    p = planned(a, b)
    assert (p.m, p.lda, p.batch) == expected
    assert p.offsets.shape == (p.batch, 3)
    assert (p.strides == (0, 0, 0)) == (p.batch == 1)


def test_a_batch_that_would_be_too_tall_stays_a_batch():
    tall = np.broadcast_to(zeros(1), (1 << 20, 1 << 12, 1))
    strides = ((1 << 12, 1, 1), (1, 1), (1 << 12, 1, 1))
    p = gemm.plan((tall.shape, (1, 1), tall.shape), strides)
    assert (p.m, p.batch) == (1 << 12, 1 << 20)
    assert p.strides == (1 << 12, 0, 1 << 12)


def test_uneven_and_backward_batches_have_no_stride():
    x = zeros(6, 4, 4)
    assert planned(x[::2], x[:3]).strides == (32, 16, 16)
    assert planned(x[::-1], x).strides is None
    assert planned(zeros(3, 1, 4, 4), zeros(2, 4, 4)).strides is None
    assert planned(zeros(3, 3, 4, 4)[:, :2], zeros(3, 2, 4, 4)).strides is None
    assert planned(zeros(3, 2, 4, 4)[:, :1], zeros(3, 1, 4, 4)).strides == (32, 16, 16)
    assert planned(x[::-1], x).offsets.tolist() == [[-16 * k, 16 * k, 16 * k] for k in range(6)]


@pytest.mark.parametrize("where", ["m", "n", "k", "lda", "ldb", "batch"])
def test_sizes_beyond_a_library_are_refused(where):
    big = gemm.INT32 + 1
    m, n, k = (big if where == x else 2 for x in "mnk")
    lda, ldb = (big if where == "lda" else k), (big if where == "ldb" else n)
    batch = (big,) if where == "batch" else ()
    shapes = ((*batch, m, k), (*batch, k, n), (*batch, m, n))
    steps = [(2 * x,) if batch else () for x in (k, n, n)]
    strides = ((*steps[0], lda, 1), (*steps[1], ldb, 1), (*steps[2], n, 1))
    case = NativeCase("matmul", (dt.float32,) * 3, shapes, strides)
    assert gemm.supported(case, [dt.float32])
    assert not gemm.supported(case, [dt.float32], gemm.INT32)


def test_dtypes_are_the_library_s():
    case = NativeCase("matmul", (dt.float16,) * 3, ((2, 2),) * 3, ((2, 1),) * 3)
    assert gemm.supported(case, [dt.float16, dt.float32])
    assert not gemm.supported(case, [dt.float32])


def test_offsets_are_shared_and_cannot_be_changed():
    p = planned(zeros(2, 2, 2), zeros(2, 2, 2))
    assert planned(zeros(2, 2, 2), zeros(2, 2, 2)) is p
    with pytest.raises(ValueError, match="read-only"):
        p.offsets[0, 0] = 1


def test_an_unsupported_product_has_no_plan():
    with pytest.raises(ValueError, match="ask `supported` first"):
        gemm.plan(((2, 2),) * 3, ((2, 2), (2, 1), (2, 1)))
