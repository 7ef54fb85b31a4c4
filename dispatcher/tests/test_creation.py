"""Creation functions against NumPy and exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tensorbus as tb


@pytest.mark.parametrize("device", ["cpu", "ref"])
@pytest.mark.parametrize("dtype", [tb.bool, tb.int8, tb.uint64, tb.bfloat16, tb.float32])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (3, 1, 5)])
def test_constant(shape: tuple[int, ...], dtype: Any, device: str) -> None:
    for x, value in [
        (tb.zeros(shape, dtype=dtype, device=device), 0),
        (tb.ones(shape, dtype=dtype, device=device), 1),
        (tb.full(shape, 1, dtype=dtype, device=device), 1),
    ]:
        assert (x.shape, x.dtype, str(x.device)) == (shape, dtype, device)
        assert (x.numpy() == np.full(shape, value, dtype.numpy)).all()
    y = tb.empty(shape, dtype=dtype, device=device)
    for z, v in [(tb.zeros_like(y), 0), (tb.ones_like(y), 1), (tb.full_like(y, 1), 1)]:
        assert (z.shape, z.dtype, z.device) == (shape, dtype, y.device)
        assert (z.numpy() == np.full(shape, v, dtype.numpy)).all()
    assert tb.empty_like(y, dtype=tb.int16).dtype is tb.int16


def test_defaults() -> None:
    assert tb.zeros(2).dtype is tb.float32
    assert tb.full((), 1).dtype is tb.int64
    assert tb.full((), 1.0).dtype is tb.float32
    assert tb.full((), True).dtype is tb.bool
    assert tb.arange(3).dtype is tb.int64
    assert tb.arange(3.0).dtype is tb.float32
    assert tb.linspace(0, 1, 3).dtype is tb.float32
    assert tb.asarray([1, 2]).dtype is tb.int64
    assert tb.asarray([1.0]).dtype is tb.float32
    assert tb.asarray(np.ones(1)).dtype is tb.float64
    assert tb.asarray([True]).dtype is tb.bool
    assert tb.full((2,), float("nan")).numpy().tolist() != [0, 0]
    assert np.signbit(tb.full((2,), -0.0).numpy()).all()


@pytest.mark.parametrize(
    "arguments",
    [(5,), (0,), (-3,), (2, 9), (9, 2, -3), (0, 10, 4), (-(1 << 62), (1 << 62), 1 << 61)],
)
def test_arange_of_integers(arguments: tuple[int, ...]) -> None:
    for dtype in (tb.int64, tb.int32, tb.int8):
        want = np.arange(*arguments, dtype=np.int64)
        if want.size and not dtype.min <= want.min() <= want.max() <= dtype.max:
            with pytest.raises(OverflowError):
                tb.arange(*arguments, dtype=dtype)
            continue
        got = tb.arange(*arguments, dtype=dtype)
        assert got.dtype is dtype
        assert got.numpy().tolist() == want.tolist()
    big = tb.arange((1 << 64) - 3, (1 << 64) - 1, dtype=tb.uint64)
    assert big.numpy().tolist() == [(1 << 64) - 3, (1 << 64) - 2]
    assert tb.arange(0.5, 4, dtype=tb.int64).numpy().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [tb.float32, tb.float64])
@pytest.mark.parametrize("arguments", [(0, 1, 0.1), (1.5, -2, -0.3), (0, 3), (1e-3, 2, 0.37)])
def test_arange_of_floats(arguments: tuple[float, ...], dtype: Any) -> None:
    """Exactly fma(i, step, start) of the rounded arguments, and NumPy's count."""
    start, stop, step = (*arguments, 1)[:3]
    got = tb.arange(start, stop, step, dtype=dtype).numpy()
    assert got.size == np.arange(start, stop, step).size
    first, by = Fraction(float(dtype.numpy.type(start))), Fraction(float(dtype.numpy.type(step)))
    for k, v in enumerate(got):
        # Between a float64 and its float32 there is a second rounding only on exact ties.
        assert float(v) == float(dtype.numpy.type(float(first + k * by)))


def test_arange_beyond_exact_indices() -> None:
    """A float32 cannot count to 2^24 + 1, a long range can."""
    n = (1 << 24) + 5
    x = tb.arange(0, n, dtype=tb.float32)
    assert x.shape == (n,)
    assert x[-1].item() == float(np.float32(n - 1))
    y = tb.arange(-float(1 << 24), 5.0, dtype=tb.float32)
    assert y[-5:].numpy().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [tb.float16, tb.float32, tb.float64])
@pytest.mark.parametrize("endpoint", [True, False])
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (-3.3, 7.7), (5, 5), (1e4, -1e-3)])
@pytest.mark.parametrize("num", [0, 1, 2, 11, 1000])
def test_linspace(start: float, stop: float, num: int, endpoint: bool, dtype: Any) -> None:
    got = tb.linspace(start, stop, num, dtype=dtype, endpoint=endpoint).numpy()
    want = np.linspace(start, stop, num, endpoint=endpoint)
    assert got.shape == (num,)
    # Two roundings of the ends, one of the step and one of the value, each u (|start| + |stop|).
    u = tb.finfo(dtype).eps / 2
    bound = 4 * (u + 2.0**-53) * (abs(start) + abs(stop)) + 2.0**-24
    assert np.abs(got.astype(np.float64) - want).max(initial=0) <= bound
    if num > 1:
        assert got[0] == dtype.numpy.type(start)
        if endpoint:
            assert got[-1] == dtype.numpy.type(stop)
        steps = np.diff(got.astype(np.float64)) * np.sign(stop - start)
        assert (steps >= 0).all()


def test_linspace_limits() -> None:
    assert tb.linspace(0, 10, 5, dtype=tb.int32).numpy().tolist() == [0, 2, 5, 7, 10]
    wide = tb.linspace(-1.7e308, 1.7e308, 3, dtype=tb.float64).numpy()
    assert wide.tolist() == [-1.7e308, 0, 1.7e308]


@pytest.mark.parametrize("device", ["cpu", "ref"])
@pytest.mark.parametrize("k", [-9, -1, 0, 2, 9])
def test_eye(k: int, device: str) -> None:
    for shape in [(3, 3), (2, 5), (5, 2), (0, 3)]:
        got = tb.eye(*shape, k=k, dtype=tb.int16, device=device).numpy()
        assert (got == np.eye(*shape, k=k)).all()
    assert tb.eye(4).shape == (4, 4)


def test_same_bits() -> None:
    for make in (
        lambda d: tb.arange(0, 5, 0.37, device=d),
        lambda d: tb.linspace(-1, 3, 37, device=d),
        lambda d: tb.arange(0.1, 5, 0.37, dtype=tb.float16, device=d),
    ):
        assert make("cpu").numpy().tobytes() == make("ref").numpy().tobytes()


def test_asarray() -> None:
    x = tb.asarray([1, 2])
    assert tb.asarray(x) is x
    assert tb.asarray(x, copy=True)._buffer is not x._buffer
    assert tb.asarray([x, [3, 4]]).numpy().tolist() == [[1, 2], [3, 4]]
    assert tb.asarray(3.5).shape == ()
    assert tb.asarray([]).shape == (0,)
    assert tb.asarray(np.arange(3, dtype=">i4")).numpy().tolist() == [0, 1, 2]
    assert tb.asarray(range(3)).numpy().tolist() == [0, 1, 2]
    assert tb.asarray([0.5], dtype=tb.bfloat16).dtype is tb.bfloat16
    assert tb.asarray(np.ones((2, 3))[:, ::-2]).shape == (2, 2)
    assert tb.asarray(x, device="ref").device == "ref"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tb.zeros((2, -1)), ValueError, "negative"),
        (lambda: tb.zeros((2.5,)), TypeError, "ints"),
        (lambda: tb.zeros((2,), dtype="float32"), TypeError, "dtype"),
        (lambda: tb.full((2,), 300, dtype=tb.uint8), OverflowError, "300"),
        (lambda: tb.full((2,), 0.5, dtype=tb.uint8), TypeError, r"0\.5"),
        (lambda: tb.full((2,), "1"), TypeError, "str"),
        (lambda: tb.arange(0, 1, 0), ValueError, "step"),
        (lambda: tb.arange(float("nan")), ValueError, "finite"),
        (lambda: tb.linspace(0, 1, -1), ValueError, "negative"),
        (lambda: tb.asarray([[1], [1, 2]]), ValueError, "inhomogeneous"),
        (lambda: tb.asarray(["a"]), TypeError, "elements"),
        (lambda: tb.asarray([1j]), TypeError, "elements"),
        (lambda: tb.asarray(np.ones(2), copy=False), ValueError, "from_dlpack"),
        (lambda: tb.asarray([300], dtype=tb.int8), OverflowError, "300"),
        (lambda: tb.asarray(np.zeros(1, "datetime64[s]")), TypeError, "M8"),
        (lambda: tb.zeros((1 << 50,)), tb.OutOfMemoryError, "out of memory"),
    ],
)
def test_errors(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
    assert tb.ones((2,)).numpy().tolist() == [1, 1]


def test_trace_names_creation() -> None:
    with tb.trace() as records:
        tb.arange(3)
        tb.ones((2,))
    assert [r.op for r in records] == ["arange", "full"]


def test_a_list_of_bfloat16_tensors_is_converted() -> None:
    x = tb.asarray([1.5, -2.0], dtype=tb.bfloat16)
    assert tb.asarray([x, x], dtype=tb.bfloat16).tolist() == [[1.5, -2.0]] * 2
    assert tb.asarray([x[0], 3.0]).dtype is tb.float32


@pytest.mark.parametrize("dtype", [None, tb.int64, tb.uint64])
def test_an_integer_beyond_64_bits_overflows(dtype: tb.DType | None) -> None:
    with pytest.raises(OverflowError, match="does not fit"):
        tb.asarray([2**64, 1], dtype=dtype)
