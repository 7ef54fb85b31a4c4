"""Random ops: what docs/random.md gives, computed by the oracle, element by element.

All recipes are held to the bit, but for `normal`, which is held to the exact transform of the same
words within a bound (see `oracle.random.normal`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import permutations
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.flushing import flushing

from ..oracle import random as oracle
from .comparing import compare, portable_bound
from .errors import check as check_errors
from .items import Outcome
from .layouts import LAYOUTS, host, place
from .random_draws import SEEDS, Draw, draws, dropout_data, named
from .repeats import overwrite
from .session import Session, reference_device
from .surfaces.checks import users_device
from .users import flood

__all__ = ["PROPERTIES", "calls"]

Array = NDArray[Any]


def calls(session: Session) -> list[Draw]:
    """All calls with which the item's op is judged."""
    return draws(session.item.op, session.dtype, session.level != "smoke")


def _made(session: Session, draw: Draw, device: tb.Device | None = None) -> Array:
    with tb.reproducible(), tb.trace() as trace:
        result = draw.call(device or session.device)
    if device is None:
        session.runs += 1
        session.served |= trace.variants()
    return host(result)


def _fail(outcome: Outcome, message: str, witness: str = "") -> None:
    if outcome.state == "pass":
        outcome.state, outcome.message, outcome.witness = "fail", message[:500], witness


def _against(outcome: Outcome, label: str, got: Array, want: Array | oracle.Normal) -> None:
    """Bits, or the distance from the exact number over its bound."""
    if not isinstance(want, oracle.Normal):
        compare(outcome, label, got, np.asarray(want).reshape(got.shape), "docs/random.md gives")
        return
    outcome.decided += max(got.size, 1)
    if not got.size:
        return
    values = got.reshape(-1).astype(np.float64)
    error = np.abs((values - want.hi) - want.lo)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / want.bound)
    ratio = np.where(np.isfinite(values), ratio, np.inf)
    k = int(np.argmax(ratio))
    if not outcome.bound or ratio[k] > outcome.worst_error / outcome.bound:
        outcome.worst_error, outcome.bound = float(error[k]), float(want.bound[k])
        outcome.unit, outcome.witness = "absolute", f"{label} at {k}"
    if ratio[k] > 1:
        text = f"{label}: at {k} got {values[k]!r}, exact {want.hi[k]!r}, bound {want.bound[k]:.3g}"
        _fail(outcome, text, str(k))


def values(session: Session) -> Outcome:
    """Every option and form of argument gives what the recipe gives, and the right moments."""
    outcome = Outcome("values")
    _defaults(session, outcome)
    for draw in calls(session):
        got = _made(session, draw)
        if got.shape != draw.shape or got.dtype != session.dtype.numpy:
            _fail(outcome, f"{draw.label}: {got.dtype}{got.shape}, expected {draw.shape}")
            continue
        _against(outcome, draw.label, got, draw.want())
        if draw.moments is not None:
            problem = oracle.mean_and_variance_problem(got, *draw.moments)
            if problem:
                _fail(outcome, f"{draw.label}: {problem}")
    return outcome


def _defaults(session: Session, outcome: Outcome) -> None:
    """Options that are left out are what the record says, to the sign of a zero."""
    op = session.item.op
    found = {
        p.name: repr(p.default)
        for p in inspect.signature(named(op)).parameters.values()
        if p.default is not p.empty and p.default is not None
    }
    due = {n: repr(v) for n, v in oracle.RECIPES[op.rsplit(".", 1)[-1]].defaults}
    outcome.decided += len(due)
    if found != due:
        _fail(outcome, f"options left out are {found}, the record says {due}")


def bits(session: Session) -> Outcome:
    """The same bits as the interpreter."""
    outcome = Outcome("bits", unit="bits")
    chosen = [d for d in calls(session) if np.prod(d.shape) <= 1 << 13]
    # All but normal numbers are judged to the bit by `values`, and the interpreter is slow.
    for draw in chosen if session.level != "smoke" else chosen[2:5]:
        # No number that is drawn comes near the least normal one, so any notion of tiny will do.
        with flushing() if session.flushes else nullcontext():
            want = _made(session, draw, reference_device())
        compare(outcome, draw.label, _made(session, draw), want, "ref has")
    return outcome


# -- keys -----------------------------------------------------------------------------------------

_DATA = (0, 1, 2, 77, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1, 2**64 + 5, -1, np.int64(-2))
_PUBLIC = {"Key", "key"}
_OF_A_KEY = {"value", "words", "split", "fold_in"}


def _keys(outcome: Outcome) -> dict[str, tuple[Any, int]]:
    """Keys of every kind with the number that the document gives each."""
    found: dict[str, tuple[Any, int]] = {}
    for seed in (*SEEDS, 2**32, 2**64 - 1, np.uint64(5)):
        given: Any = seed
        found[f"key({seed})"] = tb.random.key(given), int(seed)
    parent = found[f"key({SEEDS[1]})"]
    for count in (0, 1, 2, 5):
        made, want = parent[0].split(count), oracle.split(parent[1], count)
        outcome.decided += 1
        if len(made) != count:
            _fail(outcome, f"split({count}) gives {len(made)} keys")
        for i, pair in enumerate(zip(made, want, strict=False)):
            found[f"split({count})[{i}]"] = pair
    outcome.decided += 1
    if len(parent[0].split()) != 2:
        _fail(outcome, "split() gives not two keys")
    for data in _DATA:
        found[f"fold_in({data})"] = parent[0].fold_in(data), oracle.fold_in(parent[1], int(data))
    child, number = found["split(5)[3]"]
    found["split, split"] = child.split(2)[1], oracle.split(number, 2)[1]
    found["split, fold_in"] = child.fold_in(3), oracle.fold_in(number, 3)
    made, number = found["fold_in(77)"]
    found["fold_in, split"] = made.split(3)[2], oracle.split(number, 3)[2]
    return found


def streams(session: Session) -> Outcome:
    """Keys are the document's; draws under keys of one family share no words."""
    outcome = Outcome("streams", unit="bits")
    public = {n for n in tb.random.__all__ if f"random.{n}" not in tb.FUNCTIONS}
    own = {n for n in dir(tb.random.Key) if not n.startswith("_")} | {"value"}
    if public != _PUBLIC or own != _OF_A_KEY:
        _fail(outcome, f"there are public functions that nobody judges: {public} {own}")
    found = _keys(outcome)
    for label, (made, number) in found.items():
        outcome.decided += 1
        if made.value != number or made.words != (number & 0xFFFFFFFF, number >> 32):
            _fail(outcome, f"{label} is {made.value:#x}, docs/random.md gives {number:#x}")
        if made != tb.random.key(number) or hash(made) != hash(tb.random.key(number)):
            _fail(outcome, f"{label} is not the key of its number")
    family = ["split(5)[0]", "split(5)[1]", "fold_in(0)", "fold_in(1)", f"key({SEEDS[1]})"]
    seen: dict[bytes, str] = {}
    for label in family:
        made, number = found[label]
        for text, draw in _under(session, made, number):
            got = _made(session, draw)
            _against(outcome, f"{label}, {text}", got, draw.want())
        # 64-bit numbers of 5 streams of 2,048 places: some two agree with probability 2^-38.
        for place_ in oracle.double(oracle.words(made.value, 2048)):
            word = place_.tobytes()
            if word in seen:
                _fail(outcome, f"{label} and {seen[word]} share words")
            seen[word] = label
    return outcome


def _under(session: Session, made: Any, number: int) -> list[tuple[str, Draw]]:
    """One draw of the item's op under a key."""
    name, op, dtype = session.item.op.rsplit(".", 1)[-1], session.item.op, session.dtype
    n = 257
    data = dropout_data(dtype, n) if name == "dropout" else np.zeros(0)
    calls: dict[str, tuple[Callable[[tb.Device], Any], Callable[[], Any]]] = {
        "uniform": (
            lambda d: named(op)(n, key=made, dtype=dtype, device=d),
            lambda: oracle.uniform(number, n, dtype.numpy),
        ),
        "normal": (
            lambda d: named(op)(n, key=made, dtype=dtype, device=d),
            lambda: oracle.normal(number, n, dtype.numpy, ulps=_ulps(session)),
        ),
        "integers": (
            lambda d: named(op)(dtype.min, dtype.max + 1, n, key=made, dtype=dtype, device=d),
            lambda: oracle.integers(number, n, dtype.numpy, dtype.min, dtype.max + 1),
        ),
        "bernoulli": (
            lambda d: named(op)(0.49, n, key=made, device=d),
            lambda: oracle.bernoulli(number, n, 0.49),
        ),
        "permutation": (
            lambda d: named(op)(n, key=made, device=d),
            lambda: oracle.permutation(number, n),
        ),
        "dropout": (
            lambda d: named(op)(place(d, data)[0], 0.49, key=made),
            lambda: oracle.dropout(data, 0.49, number),
        ),
    }
    call, want = calls[name]
    return [("257 elements", Draw("", call, want, (n,)))]


def _ulps(session: Session) -> tuple[float, float]:
    return portable_bound("log", session.dtype), portable_bound("cos", session.dtype)


# -- tensors: layouts and derivatives -------------------------------------------------------------


OfArray = Callable[[Array], Array]
Linear = tuple[str, Callable[[tb.Tensor], Any], OfArray, OfArray]


def _linear(session: Session) -> list[Linear]:
    """(label, the op of its tensor, the same of an array, and of a cotangent)."""
    key = tb.random.key(SEEDS[1])
    if session.item.op == "nn.dropout":

        def of(p: float) -> Any:
            def exact(x: Array) -> Array:
                return oracle.dropout(np.ascontiguousarray(x), p, SEEDS[1])

            return f"p={p}", lambda x: named("nn.dropout")(x, p, key=key), exact, exact

        return [of(p) for p in (0.49, 0.0, 1.0, 0.1)]

    def moved(axis: int) -> Any:
        def order(x: Array) -> Array:
            return oracle.permutation(SEEDS[1], x.shape[axis])

        return (
            f"axis {axis}",
            lambda x: named("random.permutation")(x, axis=axis, key=key),
            lambda x: np.take(x, order(x), axis=axis),
            lambda x: np.take(x, np.argsort(order(x)), axis=axis),
        )

    return [moved(axis) for axis in (0, -1)]


def _data(session: Session, *shape: int) -> Array:
    return dropout_data(session.dtype, *shape)


def layouts(session: Session) -> Outcome:
    """Any memory layout gives the same, and no call changes its operand."""
    outcome = Outcome("layouts", unit="bits")
    chosen = ("general", "transposed") if session.level == "smoke" else LAYOUTS
    for label, call, exact, _ in _linear(session):
        laid = [(name, _data(session, 13, 7, 9), name) for name in chosen]
        # An element counts by its index, whatever the rank and the order in memory.
        laid += [("transposed", _data(session, 30, 41), "transposed")]
        if session.level != "smoke":
            laid += [(name, _data(session, 30, 41), name) for name in LAYOUTS]
            laid += [(name, _data(session, 67), name) for name in ("general", "negative")]
            for order in permutations(range(3)):
                turned = _data(session, 3, 5, 7).transpose(order)
                laid.append((f"permuted {order}", turned, "given"))
            five = _data(session, 2, 3, 1, 4, 2).transpose(3, 0, 4, 2, 1)
            laid.append(("permuted, rank 5", five, "given"))
        for name, array, layout in laid:
            tensor, seen = place(session.device, array, layout)
            with tb.reproducible():
                got = host(call(tensor))
            what = f"{label}, {list(array.shape)} {name}"
            compare(outcome, what, got, exact(np.asarray(seen)), "docs/random.md gives")
            compare(outcome, f"{what}: operand", host(tensor), np.asarray(seen), "it was")
    return outcome


def gradient(session: Session) -> Outcome:
    """Reverse mode, to the bit: the same mask of the cotangent, or its slices back in place."""
    outcome = Outcome("gradient", unit="bits")
    for label, call, _, back in _linear(session):
        for layout in ("contiguous", "general", "transposed"):
            tensor, _ = place(session.device, _data(session, 41, 30), layout)
            tensor.requires_grad = True
            cotangent = np.flip(_data(session, 41, 30)).copy()
            with tb.reproducible():
                result = call(tensor)
                given = place(session.device, cotangent, layout)[0]
                (got,) = tb.grad([result], [tensor], [given])
            assert got is not None
            want = back(cotangent)
            compare(outcome, f"{label}, {layout}", host(got), want, "docs/random.md gives")
    return outcome


def forward(session: Session) -> Outcome:
    """Forward mode, to the bit: the op is linear, so the tangent goes where the elements go."""
    outcome = Outcome("forward", unit="bits")
    for label, call, exact, _ in _linear(session):
        x, t = _data(session, 41, 30), np.flip(_data(session, 41, 30)).copy()
        tensors = [place(session.device, a)[0] for a in (x, t)]
        with tb.reproducible():
            value, moved = tb.jvp(call, [tensors[0]], [tensors[1]])
        compare(outcome, f"{label}, value", host(value), exact(x), "docs/random.md gives")
        compare(outcome, f"{label}, tangent", host(moved), exact(t), "docs/random.md gives")
    return outcome


def second(session: Session) -> Outcome:
    """The gradient is linear in the cotangent with the same mask, and constant in the operand."""
    outcome = Outcome("second", unit="bits")
    for label, call, exact, _ in _linear(session):
        x, g, w = (place(session.device, _data(session, 21, 30))[0] for _ in range(3))
        x.requires_grad = g.requires_grad = True
        with tb.reproducible():
            (first,) = tb.grad([call(x)], [x], [g], create_graph=True)
            assert first is not None
            by_g, by_x = tb.grad([first], [g, x], [w], allow_unused=True)
        outcome.decided += 1
        if by_g is None:
            _fail(outcome, f"{label}: the gradient does not depend on the cotangent")
            continue
        compare(outcome, label, host(by_g), exact(host(w)), "docs/random.md gives")
        if by_x is not None and np.any(host(by_x) != 0):
            _fail(outcome, f"{label}: the gradient changes with the operand")
    return outcome


# -- the rest -------------------------------------------------------------------------------------


def _bad(session: Session) -> Sequence[tuple[str, type[Exception], Callable[[], Any]]]:
    op, d, key = session.item.op, session.device, tb.random.key(1)
    f, name = named(op), op.rsplit(".", 1)[-1]
    x = place(d, dropout_data(tb.float32, 6, 4))[0]
    whole = place(d, np.arange(6))[0]
    good: dict[str, tuple[Any, ...]] = {
        "uniform": (3,), "normal": (3,), "integers": (0, 5, 3), "bernoulli": (0.5, 3),
        "permutation": (x,), "dropout": (x, 0.5),
    }  # fmt: skip
    args = good[name]
    here: dict[str, Any] = {} if name in ("dropout", "permutation") else {"device": d}
    found: list[tuple[str, type[Exception], Callable[[], Any]]] = []

    def add(what: str, error: type[Exception], *given: Any, **options: Any) -> None:
        found.append((what, error, lambda: f(*given, **{**here, **options})))

    add("neither key nor seed", TypeError, *args)
    add("both key and seed", TypeError, *args, key=key, seed=1)
    add("a number as key", TypeError, *args, key=7)
    add("a float as seed", TypeError, *args, seed=1.5)
    for seed in (-1, 2**64):
        add(f"seed {seed}", ValueError, *args, seed=seed)
    if name in ("uniform", "normal", "integers"):
        add("a bool dtype", TypeError, *args, seed=1, dtype=dt.bool_)
        add("a dtype's name", TypeError, *args, seed=1, dtype="float32")
        add("a dtype of another kind", TypeError, *args, seed=1,
            dtype=tb.float32 if name == "integers" else tb.int32)  # fmt: skip
    if name in ("uniform", "normal", "integers", "bernoulli"):
        add("a negative size", ValueError, *args[:-1], -1, seed=1)
        add("a negative size in a tuple", ValueError, *args[:-1], (2, -3), seed=1)
        add("a float as shape", TypeError, *args[:-1], 2.5, seed=1)
    if name == "uniform":
        big, inf, nan = 3e38, float("inf"), float("nan")
        for low, high in ((1.0, 1.0), (2.0, 1.0), (-big, big), (0.0, inf), (-inf, 0.0), (nan, 1.0),
                          (0.0, nan), (1.0, 1.0 + 2.0**-30)):  # fmt: skip
            add(f"low={low}, high={high}", ValueError, 3, low=low, high=high, seed=1)
    if name == "normal":
        for std in (-1.0, -1e-9, float("nan")):
            add(f"std={std}", ValueError, 3, std=std, seed=1)
    if name == "integers":
        for low, high in ((5, 5), (5, 4), (0, 2**63 + 1), (-(2**63) - 1, 0)):
            add(f"[{low}, {high})", ValueError, low, high, 3, seed=1)
        for kind, low, high in ((tb.uint8, -1, 5), (tb.uint8, 0, 257), (tb.int16, 0, 2**15 + 1)):
            add(f"[{low}, {high}) of {kind.name}", ValueError, low, high, 3, seed=1, dtype=kind)
        add("a float bound", TypeError, 0, 5.5, 3, seed=1)
    if name in ("bernoulli", "dropout"):
        for p in (-0.1, 1.1, 1 + 2.0**-40, -1e-9, float("nan")):
            add(f"p={p}", ValueError, *((x, p) if name == "dropout" else (p, 3)), seed=1)
    if name == "permutation":
        for axis in (2, -3):
            add(f"axis {axis}", IndexError, x, axis=axis, seed=1)
        add("-1 elements", ValueError, -1, seed=1)
        add("a float", TypeError, 2.5, seed=1)
    if name == "dropout":
        add("a list instead of a tensor", TypeError, [1.0, 2.0], 0.5, seed=1)
        add("integers", TypeError, whole, 0.5, seed=1)
    return found


def errors(session: Session) -> Outcome:
    """Bad arguments raise the documented exception: the recipe's own, then those by signature."""

    outcome = Outcome("errors", unit="calls")
    for what, error, call in _bad(session):
        outcome.decided += 1
        problem = _raised(call, error)
        if problem:
            _fail(outcome, f"{what}: {problem}")
    general = check_errors(session)
    general.decided += outcome.decided
    return general if outcome.state == "pass" else outcome


def _raised(call: Callable[[], Any], error: type[Exception]) -> str:
    try:
        call()
    except error as raised:
        return "" if str(raised).strip() else f"{error.__name__} without a message"
    except Exception as raised:
        return f"raised {type(raised).__name__} ({raised}), expected {error.__name__}"[:300]
    return f"nothing raised, expected {error.__name__}"


def determinism(session: Session) -> Outcome:
    """A seed gives the same numbers again, whatever lay in fresh memory; another seed others."""
    outcome = Outcome("determinism", unit="bits")
    key = tb.random.key
    first, other = (_under(session, key(seed), seed)[0][1] for seed in (7, 8))
    again = _made(session, first)
    for poison in (0x5A, 0x00):
        session.guard.poison = poison
        compare(outcome, "seed 7", _made(session, first), again, "the first run gave")
    session.guard.poison = 0xFF
    if np.array_equal(again, _made(session, other)):
        _fail(outcome, "seeds 7 and 8 give the same numbers")
    return outcome


def users(session: Session) -> Outcome:
    """As users have it: no fences, no trace, pool blocks that held other numbers; all kept."""

    outcome, device = Outcome("users", unit="bits"), users_device(session)
    chosen = [d for d in calls(session) if 0 < np.prod(d.shape) <= 1 << 13]
    chosen = chosen[:3] if session.level == "smoke" else chosen
    kept, dirt = [], np.full(8 << 13, 0xFF, np.uint8)
    with tb.reproducible():
        for draw in [*chosen, *chosen[:1]]:
            device.backend.copy_in(device.backend.allocate(dirt.size), 0, memoryview(dirt.data))
            kept.append((draw, draw.call(device)))
            draw.call(device)  # dropped at once
    held = flood(device, [drawn for _, drawn in kept])
    for draw, drawn in kept:
        compare(outcome, draw.label, host(drawn), _made(session, draw), "with fences gave")
    del held
    for draw in chosen[:2]:
        with tb.reproducible():
            first, second = draw.call(device), draw.call(device)
            wanted = host(second)
            overwrite(first)
            again = draw.call(device)
        compare(outcome, f"{draw.label}, beside one overwritten", host(second), wanted, "it was")
        compare(outcome, f"{draw.label}, after one overwritten", host(again), wanted, "it was")
    return outcome


def provenance(session: Session) -> Outcome:
    """The numbers were made on the device itself."""
    before = session.guard.launches
    _made(session, _under(session, tb.random.key(1), 1)[0][1])
    if "fallback" in session.served or session.guard.launches == before:
        return Outcome("provenance", "fallback", "served by another device", decided=1)
    return Outcome("provenance", decided=1)


PROPERTIES = {
    f.__name__: f
    for f in (
        values, bits, streams, layouts, errors, gradient, forward, second, determinism, users,
        provenance,
    )
}  # fmt: skip
"""What is judged of a random op, beside `guards`."""
