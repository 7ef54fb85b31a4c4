"""Random numbers from keys: the same bits on every device, in any order, however often asked for.

The generator is Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
as 1, 2, 3", SC 2011), a bijection of 128-bit counters chosen by a 64-bit key.  The element with
C-order index i is made from the four words of counter (i mod 2^32, i / 2^32, 0, 0) alone, so
nothing depends on the number of threads, and a prefix of a longer draw equals a shorter one.

There is no hidden state: pass a key (or a seed, which is ``key(seed)``) to every call, and never
the same one to two draws that shall be independent; `Key.split` makes new ones.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorbus_backends import dtypes as dt, ir, mathlib
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from . import ops
from ._autograd import Context
from ._devices import Device, get_device
from ._op import Op, apply_number, function
from ._plan import Value
from ._planner import Planner
from ._promotion import DEFAULT_FLOAT, DEFAULT_INT
from ._recent import kept
from ._shown import shown
from ._spec import Shape, Spec
from ._tensor import Tensor
from .ops._common import as_shape, normalize_axis

__all__ = ["Key", "bernoulli", "integers", "key", "normal", "permutation", "uniform"]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_ROUNDS = 10

# Word 3 of the counter keeps what draws use apart from what derives keys.
_MOST_KEYS = 1 << 20
_SPLIT, _FOLD = 1, 2


# -- the generator --------------------------------------------------------------------------------


def philox(counter: Sequence[int], words: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox 4x32-10 of one counter (four 32-bit words) under a key (two), in Python."""
    c0, c1, c2, c3 = counter
    k0, k1 = words
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second & _MASK,
            (first >> 32) ^ c3 ^ k1,
            first & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def philox_expr(counter: Sequence[Expr], words: Sequence[Expr]) -> tuple[Expr, Expr, Expr, Expr]:
    """The same over uint32 expressions."""
    c0, c1, c2, c3 = counter
    k0, k1 = words
    a, b = (ir.const(m, dt.uint32) for m in _MULTIPLIERS)
    for _ in range(_ROUNDS):
        c0, c1, c2, c3 = ir.mulhi(c2, b) ^ c1 ^ k0, c2 * b, ir.mulhi(c0, a) ^ c3 ^ k1, c0 * a
        k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return c0, c1, c2, c3


def _words(scalar: int) -> tuple[Expr, Expr, Expr, Expr]:
    """The four words of the current element, under the key in launch scalar number `scalar`."""
    i = ir.index()
    zero = ir.const(0, dt.uint32)
    counter = (ir.cast(i, dt.uint32), ir.cast(i >> 32, dt.uint32), zero, zero)
    key = ir.param(scalar, dt.uint64)
    return philox_expr(counter, [ir.cast(key, dt.uint32), ir.cast(key >> 32, dt.uint32)])


@dataclass(frozen=True)
class Key:
    """A 64-bit key; immutable.

    Attributes:
        value: In [0, 2^64).  Keys derived by `split` and `fold_in` are 64 bits of Philox output, so
            among m of them some two coincide with probability below m^2 / 2^65.
    """

    value: int

    def split(self, count: int = 2) -> tuple[Key, ...]:
        """`count` new keys; draws under them and under this key are independent.

        Raises:
            ValueError: `count` is negative, or above 2^20; `fold_in` makes keys one by one.
        """
        several = operator.index(count)
        if not 0 <= several <= _MOST_KEYS:
            raise ValueError(
                f"split: {shown(several)} keys were asked for, not 0 to {_MOST_KEYS}; "
                "fold_in makes one for each number"
            )
        return tuple([self._derived(i, _SPLIT) for i in range(several)])

    def fold_in(self, data: int) -> Key:
        """A new key for a number, an iteration count say; `data` is taken modulo 2^64."""
        return self._derived(operator.index(data) % (1 << 64), _FOLD)

    def _derived(self, number: int, purpose: int) -> Key:
        low, high, _, _ = philox((number & _MASK, number >> 32, 0, purpose), self.words)
        return Key(low | high << 32)

    @property
    def words(self) -> tuple[int, int]:
        """Lower and upper 32 bits: the two key words of Philox."""
        return self.value & _MASK, self.value >> 32


def key(seed: int, /) -> Key:
    """The key of a seed.

    Args:
        seed: Integer in [0, 2^64).

    Raises:
        TypeError: Not an integer.
        ValueError: Out of range.
    """
    try:
        value = operator.index(seed)
    except TypeError:
        raise TypeError(f"random.key: a seed is an int, not {type(seed).__name__}") from None
    if not 0 <= value < 1 << 64:
        raise ValueError(f"random.key: seed {shown(value)} is not in [0, 2**64)")
    return Key(value)


def key_of(name: str, given: Key | None, seed: int | None) -> Key:
    """The key that a call was given, in either way."""
    if given is None and seed is not None:
        return key(seed)
    if given is not None and seed is None:
        return given
    raise TypeError(
        f"{name} needs exactly one of key= and seed=; for example seed=0, or "
        "key=tensorbus.random.key(0)"
    )


# -- from words to numbers ------------------------------------------------------------------------


def _wide(low: Expr, high: Expr) -> Expr:
    return ir.cast(high, dt.uint64) << 32 | ir.cast(low, dt.uint64)


def _fraction(words: Sequence[Expr], dtype: DType) -> Expr:
    """k 2^-p in [0, 1) for the upper p bits of a word (of two for float64), exactly."""
    p, compute = dtype.precision, dtype.compute
    if dtype is dt.float64:
        top = _wide(words[0], words[1]) >> (64 - p)
        return ir.cast(top, compute) * 2.0**-p
    return ir.cast(ir.cast(words[0] >> (32 - p), dt.int32), compute) * 2.0**-p


class _Draw(Op):
    """Elements made of the words of their index.  Number: the key.  Options: ``shape, dtype, ..``.

    Args:
        value: From the words, the dtype and the launch scalars to an element.
        scalars: Names of the options that travel as launch scalars.
        kind: Dtype of the scalars, if not the compute dtype of the result.
    """

    number = dt.uint64
    sizes = ("shape",)

    def __init__(
        self,
        name: str,
        value: Callable[..., Expr],
        scalars: tuple[str, ...] = (),
        kind: DType | None = None,
    ) -> None:
        super().__init__(name)
        self.value, self.scalars, self.kind = value, scalars, kind

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(options["dtype"], options["shape"])]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        dtype, shape = options["dtype"], options["shape"]
        kind = self.kind or dtype.compute
        out = p.new(dtype, shape)
        params = [*((kind, options[s]) for s in self.scalars), (dt.uint64, 0)]
        p.map(self.name, [self._drawn(dtype)], shape, [], [out], params)
        return out

    @kept(64)
    def _drawn(self, dtype: DType) -> Expr:
        kind = self.kind or dtype.compute
        given = [ir.param(k, kind) for k in range(len(self.scalars))]
        return self.value(_words(len(given)), dtype, *given)


def _uniform_value(words: Sequence[Expr], dtype: DType, low: Expr, span: Expr, top: Expr) -> Expr:
    value = ir.fma(_fraction(words, dtype), span, low)
    return ir.select(value < top, value, top)


def _normal_value(words: Sequence[Expr], dtype: DType, mean: Expr, deviation: Expr) -> Expr:
    """Box and Muller, "A note on the generation of random normal deviates", 1958: one of the pair.

    u = (k + 1) 2^-b in (0, 1] with b = 32 (53 for float64), the angle 2 pi j 2^-p in [-pi, pi).
    """
    compute = dtype.compute
    if dtype is dt.float64:
        u = (ir.cast(_wide(words[0], words[1]) >> 11, compute) + 1.0) * 2.0**-53
        turn = ir.cast(ir.bitcast(_wide(words[2], words[3]), dt.int64) >> 11, compute) * 2.0**-53
    else:
        u = (ir.cast(words[0], compute) + 1.0) * 2.0**-32
        turn = ir.cast(ir.bitcast(words[1], dt.int32) >> 8, compute) * 2.0**-24
    angle = turn * ir.const(float(compute.numpy.type(2 * np.pi)), compute)
    radius = ir.sqrt(mathlib.log(u) * -2.0)
    return ir.fma(radius * mathlib.cos(angle), deviation, mean)


def _integer_value(words: Sequence[Expr], dtype: DType, low: Expr, span: Expr) -> Expr:
    word = _wide(words[0], words[1])
    # A span of 2^64 does not fit its word and arrives as 0.
    offset = ir.select(span.eq(0), word, ir.mulhi(word, span))
    return ir.cast(low + offset, dtype)


def chance(word: Expr, p: Expr) -> Expr:
    """True with probability p: whether a 32-bit word is below p 2^32."""
    return (word < ir.cast(p * 2.0**32, dt.uint32)) | (p >= 1.0)


_uniform = _Draw("uniform", _uniform_value, ("low", "span", "top"))
_normal = _Draw("normal", _normal_value, ("mean", "std"))
_integers = _Draw("integers", _integer_value, ("low", "span"), dt.uint64)
_bernoulli = _Draw("bernoulli", lambda words, dtype, p: chance(words[0], p), ("p",), dt.float32)
_bits = _Draw("random_bits", lambda words, dtype: _wide(words[0], words[1]))


def _draw(op: _Draw, device: str | Device | None, given: Key, **options: Any) -> Tensor:
    return apply_number(op, (), given.value, options, get_device(device))


def _float_dtype(name: str, dtype: DType | None) -> DType:
    chosen = DEFAULT_FLOAT if dtype is None else dtype
    if not isinstance(chosen, DType) or not chosen.is_float:
        raise TypeError(f"{name}: dtype is a floating tensorbus dtype, not {shown(dtype)}")
    return chosen


@function("random", namespace="random")
def uniform(
    shape: int | Sequence[int],
    *,
    key: Key | None = None,
    seed: int | None = None,
    low: float = 0.0,
    high: float = 1.0,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """Uniform numbers in [low, high).

    ``low + k 2^-p (high - low)`` for p random bits, p the precision of the dtype (24 for float32,
    53 for float64), with one rounding; what rounds to `high` becomes the number below it.

    Args:
        shape: Of the result.
        key: Key, or
        seed: seed of one.
        low: Least value.
        high: Bound that is not reached.
        dtype: Floating; float32 by default.
        device: Where.

    Raises:
        TypeError: Not exactly one of `key` and `seed`, or `dtype` is not floating.
        ValueError: `low` is not below `high`, or one of them (or their distance) is not finite in
            the dtype.
    """
    kind = _float_dtype("uniform", dtype)
    given = key_of("uniform", key, seed)
    compute = kind.compute.numpy.type
    with np.errstate(over="ignore"):
        least, bound = kind.numpy.type(low), kind.numpy.type(high)
        span = compute(bound) - compute(least)
    if not least < bound or not np.isfinite(span):
        raise ValueError(
            f"uniform: low={low} and high={high} do not bound a finite interval of {kind.name}"
        )
    top = float(np.nextafter(bound, least))
    return _draw(
        _uniform,
        device,
        given,
        shape=as_shape("uniform", shape),
        dtype=kind,
        low=float(least),
        span=float(span),
        top=top,
    )


@function("random", namespace="random")
def normal(
    shape: int | Sequence[int],
    *,
    key: Key | None = None,
    seed: int | None = None,
    mean: float = 0.0,
    std: float = 1.0,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """Normal numbers by Box and Muller's transform of two uniform ones.

    Deviates reach 6.66 standard deviations (8.57 for float64), which a true normal number exceeds
    with probability 3e-11.

    Args:
        shape: Of the result.
        key: Key, or
        seed: seed of one.
        mean: Mean.
        std: Standard deviation, at least 0.
        dtype: Floating; float32 by default.  16-bit floats are made in float32 and rounded once.
        device: Where.

    Raises:
        TypeError: Not exactly one of `key` and `seed`, or `dtype` is not floating.
        ValueError: `std` is negative or NaN.
    """
    kind = _float_dtype("normal", dtype)
    given = key_of("normal", key, seed)
    if not std >= 0:
        raise ValueError(f"normal: std={std} is not a standard deviation")
    return _draw(
        _normal,
        device,
        given,
        shape=as_shape("normal", shape),
        dtype=kind,
        mean=float(mean),
        std=float(std),
    )


@function("random", namespace="random")
def integers(
    low: int,
    high: int,
    shape: int | Sequence[int] = (),
    *,
    key: Key | None = None,
    seed: int | None = None,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """Integers in [low, high), all but equally likely.

    ``low + floor(w (high - low) / 2^64)`` for 64 random bits w (Lemire, "Fast random integer
    generation in an interval", ACM TOMACS 29(1), 2019, without its rejection): the probability of a
    value differs from 1 / (high - low) by less than 2^-64.

    Args:
        low: Least value.
        high: Bound that is not reached.
        shape: Of the result.
        key: Key, or
        seed: seed of one.
        dtype: Integer; int64 by default.
        device: Where.

    Raises:
        TypeError: Not exactly one of `key` and `seed`, or `dtype` is not integer.
        ValueError: `low` is not below `high`, or the dtype does not hold them.
    """
    kind = DEFAULT_INT if dtype is None else dtype
    if not isinstance(kind, DType) or not kind.is_integer:
        raise TypeError(f"integers: dtype is an integer tensorbus dtype, not {shown(dtype)}")
    given = key_of("integers", key, seed)
    first, bound = operator.index(low), operator.index(high)
    if not first < bound:
        raise ValueError(f"integers: there is none in [{first}, {bound})")
    if first < kind.min or bound > kind.max + 1:
        raise ValueError(f"integers: [{first}, {bound}) does not fit {kind.name}")
    return _draw(
        _integers,
        device,
        given,
        shape=as_shape("integers", shape),
        dtype=kind,
        low=first % (1 << 64),
        span=(bound - first) % (1 << 64),
    )


@function("random", namespace="random")
def bernoulli(
    p: float,
    shape: int | Sequence[int] = (),
    *,
    key: Key | None = None,
    seed: int | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """Truth values that are True with probability `p`.

    A 32-bit word is compared with ``p 2^32``, `p` rounded to float32: the probability is off by
    less than 2^-32 + 2^-24 p.

    Args:
        p: Probability, in [0, 1].
        shape: Of the result.
        key: Key, or
        seed: seed of one.
        device: Where.

    Raises:
        TypeError: Not exactly one of `key` and `seed`.
        ValueError: `p` is not in [0, 1].
    """
    given = key_of("bernoulli", key, seed)
    if not 0 <= p <= 1:
        raise ValueError(f"bernoulli: p={p} is not a probability")
    shape = as_shape("bernoulli", shape)
    return _draw(_bernoulli, device, given, shape=shape, dtype=dt.bool_, p=float(p))


@function("random", namespace="random", differentiable=True)
def permutation(
    x: int | Tensor,
    /,
    *,
    axis: int = 0,
    key: Key | None = None,
    seed: int | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """A random order of 0 .. x-1, or of the slices of a tensor along an axis.

    It is the order that sorts 64 random bits for each place, so all orders are equally likely but
    for ties, of which there is one with probability below n^2 / 2^65.

    Args:
        x: Number of elements (gives int64), or the tensor to reorder.
        axis: Axis along which a tensor's slices are reordered.
        key: Key, or
        seed: seed of one.
        device: Where; by default that of `x`.

    Raises:
        TypeError: Not exactly one of `key` and `seed`.
        ValueError: `x` is negative.
        IndexError: The axis is out of range.
    """
    given = key_of("permutation", key, seed)
    if isinstance(x, Tensor):
        along = normalize_axis("permutation", axis, x.ndim)
        moved = x if device is None else ops.to_device(x, device)
        order = permutation(moved.shape[along], key=given, device=moved.device)
        return ops.take(moved, order, axis=along)
    n = operator.index(x)
    if n < 0:
        raise ValueError(f"permutation: {shown(n)} elements cannot be ordered")
    as_shape("permutation", n)
    return ops.argsort(_draw(_bits, device, given, shape=(n,), dtype=dt.uint64))


# -- dropout --------------------------------------------------------------------------------------


class _Dropout(Op):
    """Number: the key, from which the gradient makes the same mask again.  Option: ``p``."""

    number = dt.uint64

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(specs[0].dtype, specs[0].shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        (x,) = values
        compute, rate = x.dtype.compute, options["p"]
        out = p.new(x.dtype, x.shape)
        p.map(
            self.name,
            [_dropped(x.dtype)],
            x.shape,
            [x],
            [out],
            [
                (dt.float32, rate),
                (compute, 1 / (1 - rate) if rate < 1 else 0.0),
                (dt.uint64, 0),
            ],
        )
        return out


@kept(16)
def _dropped(dtype: DType) -> Expr:
    compute = dtype.compute
    dropped = chance(_words(2)[0], ir.param(0, dt.float32))
    scaled = ir.input_(0, dtype) * ir.param(1, compute)
    return ir.select(dropped, ir.const(0.0, compute), scaled)


def _dropout_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    return [_again(c, g)]


def _dropout_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    t = tangents[0]
    return None if t is None else _again(c, t)


def _again(c: Context, x: Tensor) -> Tensor:
    """Another tensor under the mask of a call."""
    return apply_number(_dropout, (x,), c.options["number"], {"p": c.options["p"]})


_dropout = _Dropout("dropout", vjp=_dropout_vjp, jvp=_dropout_jvp)


def dropped_out(x: Tensor, p: float, given: Key) -> Tensor:
    """``nn.dropout`` while training."""
    return apply_number(_dropout, (x,), given.value, {"p": p})
