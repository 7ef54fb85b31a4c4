"""The calls with which a random op is judged, and what docs/random.md says of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from ..oracle import random as oracle
from .comparing import portable_bound
from .layouts import place

__all__ = ["Draw", "draws", "dropout_data", "named"]

Array = NDArray[Any]

SEEDS = (0, 12345, 0xFEDCBA9876543210)
_TAIL = 4099
_LONG = 70001
"""Beyond 2^16 elements."""


@dataclass(frozen=True)
class Draw:
    """One call.

    Attributes:
        label: What is particular about it.
        call: On a device.
        want: The bits, or the exact number and its bound.
        moments: Mean, variance and fourth central moment of independent draws, where there are
            enough to be tested.
    """

    label: str
    call: Callable[[tb.Device], tb.Tensor]
    want: Callable[[], Array | oracle.Normal]
    shape: tuple[int, ...]
    moments: tuple[float, float, float] | None = None


def named(op: str) -> Callable[..., Any]:
    """The public function, as it is registered now."""
    return tb.FUNCTIONS[op].call


def _size(shape: Any) -> tuple[tuple[int, ...], int]:
    full = (int(shape),) if isinstance(shape, int) else tuple(shape)
    return full, int(np.prod(full, dtype=int))


_SHAPES: tuple[Any, ...] = (
    0,
    1,
    (),
    (0,),
    (3, 0, 2),
    2,
    3,
    4,
    5,
    [7, 9],
    (2, 3, 43),
    129,
)
"""Forms of a shape; sizes around the four words of a counter among them."""


def _drawn(
    op: str,
    given: Sequence[Any],
    options: dict[str, Any],
    want: Callable[[int, int], Array | oracle.Normal],
    shape: Any = _TAIL,
    seed: int = SEEDS[1],
    label: str = "",
    moments: tuple[float, float, float] | None = None,
    keyed: bool = False,
) -> Draw:
    full, count = _size(shape)

    def call(device: tb.Device) -> tb.Tensor:
        source = {"key": tb.random.key(seed)} if keyed else {"seed": seed}
        return named(op)(*given, shape, **options, **source, device=device)  # type: ignore[no-any-return]

    text = label or ", ".join([*map(str, given), *(f"{k}={v}" for k, v in options.items())])
    return Draw(f"{text}, {shape}, seed {seed}", call, lambda: want(seed, count), full, moments)


def _float_draws(
    op: str,
    dtype: DType,
    deep: bool,
    settings: Sequence[dict[str, float]],
    want: Callable[..., Any],
    moments: tuple[float, float, float],
) -> list[Draw]:
    def of(options: dict[str, float], spelled: bool = False, **more: Any) -> Draw:
        def wanted(seed: int, count: int) -> Any:
            return want(seed, count, dtype.numpy, **options)

        given: dict[str, Any] = dict(options)
        if dtype is not dt.float32 or spelled:
            given["dtype"] = dtype
        return _drawn(op, (), given, wanted, **more)

    # 16-bit numbers are rounded, which moves their moments by up to 2^-9.
    tested = moments if dtype.bits >= 32 else None
    found = [of({}, seed=s, moments=tested) for s in SEEDS]
    found += [of(s, shape=1001, keyed=True) for s in settings]
    if deep:
        found += [of({}, shape=s) for s in _SHAPES]
        found += [of({}, shape=_LONG, seed=7, spelled=True)]
        found += [of(s, shape=(67, 45), seed=SEEDS[2]) for s in settings]
    else:
        found += [of({}, shape=s) for s in ((), (0,), (3, 5))]
    return found


def _uniform(dtype: DType, deep: bool) -> list[Draw]:
    one = np.asarray(1.0, np.float64)
    step = 2.0 ** (1 - dtype.precision)  # the distance from 1 to the next number
    settings = [
        {"low": -2.5, "high": 1.5},
        {"low": 0.1, "high": 0.7},
        {"low": -1.0, "high": 0.0},
        {"low": float(one), "high": 1.0 + step},
        {"low": float(one), "high": 1.0 + 3 * step},
        {"low": -3.0e4, "high": 3.0e4},
        {"high": 3.0},
    ]
    return _float_draws(
        "random.uniform", dtype, deep, settings, oracle.uniform, (0.5, 1 / 12, 1 / 80)
    )


def _normal(dtype: DType, deep: bool) -> list[Draw]:
    ulps = (portable_bound("log", dtype), portable_bound("cos", dtype))

    def want(seed: int, count: int, kind: Any, **options: float) -> oracle.Normal:
        return oracle.normal(seed, count, kind, **options, ulps=ulps)

    settings: list[dict[str, float]] = [
        {"mean": -3.3, "std": 0.1},
        {"mean": 2.0},
        {"std": 7.7},
        {"mean": 0.3, "std": 0.0},
    ]
    return _float_draws("random.normal", dtype, deep, settings, want, (0.0, 1.0, 3.0))


def _integers(dtype: DType, deep: bool) -> list[Draw]:
    least, most = dtype.min, dtype.max
    ranges = [
        (least, most + 1),
        (max(least, -50), min(most, 949) + 1),
        (most, most + 1),
        (least, least + 3),
        (0, 2),
        (most // 2, most + 1),
        (least, most // 2),
    ]

    def of(low: int, high: int, spelled: bool = False, **more: Any) -> Draw:
        options = {} if dtype is dt.int64 and not spelled else {"dtype": dtype}

        def want(seed: int, count: int) -> Array:
            return oracle.integers(seed, count, dtype.numpy, low, high)

        return _drawn("random.integers", (low, high), options, want, **more)

    low, high = ranges[1]
    found = [of(low, high, seed=s) for s in SEEDS]
    found += [of(a, b, shape=1001, keyed=True) for a, b in ranges]
    if deep:
        found += [of(low, high, shape=s) for s in _SHAPES]
        found += [of(least, most + 1, shape=_LONG, seed=7, spelled=True)]
    else:
        found += [of(low, high, shape=s) for s in ((), (0,), (3, 5))]
    return found


def _bernoulli(dtype: DType, deep: bool) -> list[Draw]:
    def of(p: float, **more: Any) -> Draw:
        return _drawn("random.bernoulli", (p,), {}, lambda s, n: oracle.bernoulli(s, n, p), **more)

    found = [of(0.3, seed=s, moments=(0.3, 0.21, 0.21 * (1 - 3 * 0.21))) for s in SEEDS]
    chances = (0, 1, 0.0, 1.0, 0.49, 0.5, 0.1, 1e-12, 2.0**-32, 1e-45, 1 - 2.0**-24, 1 - 2.0**-26)
    found += [of(p, shape=1001, keyed=True) for p in chances]
    found += [of(0.49, shape=s) for s in (_SHAPES if deep else ((), (0,), (3, 5)))]
    if deep:
        found += [of(p, shape=_LONG, seed=7) for p in (0.49, 0.5, 2.0**-12)]
    return found


def dropout_data(dtype: DType, *shape: int) -> Array:
    """Numbers of both signs without zeros."""
    rng = np.random.default_rng(5)
    values = rng.uniform(1, 2, shape) * rng.choice([-1.0, 1.0], shape)
    return np.asarray(values).astype(dtype.numpy)


def _permuted(x: Any, **options: Any) -> tb.Tensor:
    return named("random.permutation")(x, **options)  # type: ignore[no-any-return]


def _order_of(n: int, seed: int) -> Draw:
    def call(d: tb.Device) -> tb.Tensor:
        return _permuted(n, seed=seed, device=d)

    return Draw(f"{n}, seed {seed}", call, lambda: oracle.permutation(seed, n), (n,))


def _permutation(dtype: DType, deep: bool) -> list[Draw]:
    found = []
    if dtype is dt.int64:
        counts = (0, 1, 2, 3, 4, 5, 129, 1000, _TAIL, _LONG) if deep else (0, 1, 2, 1000)
        found += [_order_of(n, s) for n in counts for s in SEEDS[: 3 if n == 1000 else 1]]
    shapes = ((5, 300, 3), (0, 4), (17,), (1,)) if deep else ((5, 30),)
    for shape in shapes:
        x = np.arange(int(np.prod(shape))).reshape(shape) % 251
        data = x.astype(dtype.numpy)
        for axis in (None, *range(-len(shape), len(shape))):
            options = {} if axis is None else {"axis": axis}

            def want(data: Array = data, axis: int = axis or 0) -> Array:
                return np.take(data, oracle.permutation(SEEDS[2], data.shape[axis]), axis=axis)

            def call(d: tb.Device, data: Array = data, o: dict[str, int] = options) -> tb.Tensor:
                where = {} if o else {"device": d}
                key = tb.random.key(SEEDS[2])
                return _permuted(place(d, data)[0], **o, **where, key=key)

            found.append(Draw(f"tensor {shape}, axis {axis}", call, want, shape))
    return found


def _dropout(dtype: DType, deep: bool) -> list[Draw]:
    found = []

    def add(p: float | None, shape: tuple[int, ...], seed: int, **options: Any) -> None:
        data = dropout_data(dtype, *shape)
        given = () if p is None else (p,)
        off = options.get("training") is False

        def call(d: tb.Device) -> tb.Tensor:
            source = {} if off else {"seed": seed} if seed % 2 else {"key": tb.random.key(seed)}
            x = place(d, data)[0]
            return named("nn.dropout")(x, *given, **source, **options)  # type: ignore[no-any-return]

        def want() -> Array:
            return data if off else oracle.dropout(data, 0.5 if p is None else p, seed)

        found.append(Draw(f"p={p}, {shape}, {options}, seed {seed}", call, want, shape))

    for seed in SEEDS:
        add(0.25, (_TAIL,), seed)
    add(None, (1001,), SEEDS[1])
    add(0.3, (1001,), SEEDS[1], training=False)
    add(0.3, (1001,), SEEDS[1], training=True)
    for p in (0.0, 1.0, 0, 1, 0.49, 0.5, 0.1, 0.9, 1e-12, 1 - 2.0**-24, 1 - 2.0**-26):
        add(p, (1001,), SEEDS[2])
    for shape in ((), (0,), (3, 5), *(((1,), (4,), (5,), (2, 3, 43), (67, 45)) if deep else ())):
        add(0.49, shape, 7)
    if deep:
        add(0.49, (_LONG,), 7)
    return found


_MAKERS: dict[str, Callable[[DType, bool], list[Draw]]] = {
    "uniform": _uniform,
    "normal": _normal,
    "integers": _integers,
    "bernoulli": _bernoulli,
    "permutation": _permutation,
    "dropout": _dropout,
}


def draws(op: str, dtype: DType, deep: bool) -> list[Draw]:
    """Every call of an op with one dtype."""
    return _MAKERS[op.rsplit(".", 1)[-1]](dtype, deep)
