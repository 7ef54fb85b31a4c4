"""Operands and results saved for backward: whose values they are, how long, what protects them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from ..layouts import host
from .checks import Checks, surface

__all__ = ["saved"]

Call = Callable[[tb.Tensor, tb.Tensor], tb.Tensor]

_OPERANDS: dict[str, Call] = {
    "a * b": lambda a, b: a * b,
    "a / b": lambda a, b: a / b,
    "where": lambda a, b: tb.where(a > b, a * a, b * b),
    "maximum": lambda a, b: tb.maximum(a, b) * b,
    "a @ b": lambda a, b: a @ b,
    "square": lambda a, b: tb.square(a) + b,
    "sin": lambda a, b: tb.sin(a) * tb.cos(b),
    "take": lambda a, b: tb.take(a, tb.astype(abs(b[0]), tb.int64) % 3, axis=0) * b,
    "prod": lambda a, b: tb.prod(a, axis=0) + b,
    "copysign": lambda a, b: tb.copysign(a, b) * b,
    "layer_norm": lambda a, b: tb.nn.layer_norm(a, weight=b[0], bias=b[1]),
}
"""Calls whose gradient reads operands."""
_RESULTS: dict[str, Call] = {
    "exp": lambda a, b: tb.exp(a) + b,
    "sqrt": lambda a, b: tb.sqrt(a * a) + b,
    "tanh": lambda a, b: tb.tanh(a) * b,
    "sigmoid": lambda a, b: tb.nn.sigmoid(a) * b,
    "softmax": lambda a, b: tb.nn.softmax(a, axis=-1) * b,
    "logsumexp": lambda a, b: tb.logsumexp(a, axis=0) * b,
    "max": lambda a, b: tb.max(a, axis=1) * b[0],
    "std": lambda a, b: tb.std(a, axis=0) * b,
}
"""Calls whose gradient reads results, or what was computed on the way."""


@surface("saved", (dt.float32, dt.float64, dt.bfloat16), (dt.float32,))
def saved(c: Checks) -> None:
    """Gradients are those of the values at the call, whatever happens to memory afterwards."""
    x = (c.rng.integers(1, 9, (3, 3)) / 4).astype(c.dtype.numpy)
    y = (c.rng.integers(1, 9, (3, 3)) / 4 + 0.25).astype(c.dtype.numpy)
    calls = {**_OPERANDS, **_RESULTS}
    chosen = list(calls) if c.thorough else ["a * b", "exp", "a / b", "tanh", "maximum", "softmax"]
    for name in chosen:
        due = _gradients(c, calls[name], x, y)
        _dropped(c, name, calls[name], x, y, due)
        _once(c, name, calls[name], x, y, due)
        _layouts(c, name, calls[name], x, y, due)
    _changed(c, x, y)
    _versions(c, x, y)
    _named(c, x, y)


def _leaves(c: Checks, x: Any, y: Any, layout: str = "contiguous") -> tuple[tb.Tensor, tb.Tensor]:
    a, b = c.put(x, layout), c.put(y, layout)
    a.requires_grad = b.requires_grad = True
    return a, b


def _gradients(c: Checks, call: Call, x: Any, y: Any) -> list[Any]:
    a, b = _leaves(c, x, y)
    out = call(a, b)
    found = tb.grad(out, [a, b], tb.ones_like(out))
    return [host(g) for g in found if g is not None]


def _churn(c: Checks, nbytes: int) -> list[tb.Tensor]:
    """Take and fill blocks of the sizes at hand, so that a freed one would be overwritten."""
    poison = np.full(max(nbytes // c.dtype.itemsize, 1), np.nan).astype(c.dtype.numpy)
    kept = [c.put(poison) for _ in range(24)]
    return kept + [c.put(poison[:n]) for n in (1, 3, 9) for _ in range(4)]


def _dropped(c: Checks, name: str, call: Call, x: Any, y: Any, due: list[Any]) -> None:
    """Everything but leaves and result is dropped, and much memory is taken before backward."""
    a, b = _leaves(c, x, y)
    out = call(a * 1, b * 1)
    gc.collect(0)
    kept = _churn(c, x.nbytes)
    seed = tb.ones_like(out)
    tb.backward([out], [seed])
    del kept
    assert a.grad is not None
    assert b.grad is not None
    c.same(f"{name}, intermediates dropped, a", a.grad, due[0])
    c.same(f"{name}, intermediates dropped, b", b.grad, due[1])
    c.same(f"{name}, leaf a afterwards", a, x)
    c.same(f"{name}, leaf b afterwards", b, y)


def _once(c: Checks, name: str, call: Call, x: Any, y: Any, due: list[Any]) -> None:
    """A graph serves once, or as often as it is retained; then its memory is free."""
    a, b = _leaves(c, x, y)
    out = call(a, b)
    seed = tb.ones_like(out)
    out.backward(seed, retain_graph=True)
    _churn(c, x.nbytes)
    out.backward(seed)
    assert a.grad is not None
    twice = (due[0].astype(np.float64) * 2).astype(c.dtype.numpy)
    c.same(f"{name}, backward twice", a.grad, twice)
    c.raises(f"{name}, backward a third time", RuntimeError, lambda: out.backward(seed))
    c.same(f"{name}, grad after the refusal", a.grad, twice)


def _layouts(c: Checks, name: str, call: Call, x: Any, y: Any, due: list[Any]) -> None:
    """Views as operands and cotangents: saved views keep their place."""
    a, b = _leaves(c, x, y, "offset")
    out = call(a, b)
    seed = c.put(np.ones(out.shape, c.dtype.numpy), "negative")
    for g, d, leaf in zip(tb.grad(out, [a, b], seed), due, "ab", strict=True):
        c.same(f"{name}, operands at an offset, {leaf}", g, d)


def _changed(c: Checks, x: Any, y: Any) -> None:
    """Changing what a gradient needs raises when it is needed; what it does not need does not."""
    three = c.put(np.asarray(3).astype(c.dtype.numpy))

    def change(where: str) -> Callable[[], Any]:
        def run() -> Any:
            a, b = _leaves(c, x, y)
            p, q = a * 1, b * 1
            out = p * q
            if where == "operand, one element":
                q[2, 2] = three
            elif where == "operand +=":
                q += 1
            elif where == "result":
                out = tb.exp(p)
                out += 1
            elif where == "view of a result":
                out = tb.exp(p)
                out.detach()[0] = three
            return tb.grad(out, [a], tb.ones_like(out))

        return run

    for where in ("operand, one element", "operand +=", "result", "view of a result"):
        c.raises(f"{where} changed", RuntimeError, change(where))
    for where in ("operand", "view of an operand", "operand under no_grad", "the leaf"):
        run = partial(_first_changed, c, where, x, y)
        c.raises(f"{where} changed", RuntimeError, run)


_HISTORIES: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "operand 0 of multiply": ("first", lambda p, q: p * q),
    "operand 1 of multiply": ("second", lambda p, q: p * q),
    "operand 0 of add": ("both", lambda p, q: p + q),
    "operand 1 of where": ("first", lambda p, q: tb.where(q > 0, p, q)),
    "operand 2 of where": ("second", lambda p, q: tb.where(q.detach() > 0, p, q)),
    "operand 0 of sum": ("first", lambda p, q: tb.sum(p)),
    "operand 1 of concat": ("second", lambda p, q: tb.concat([p, q])),
    "operand 0 of exp": ("first", lambda p, q: tb.exp(p)),
}
"""What a refusal names: which of two results is changed through a view, and what is called then."""


def _named(c: Checks, x: Any, y: Any) -> None:
    """A history that memory has outrun is refused in words that say which operand of what it is.

    Of saved values it is said which of them changed, and of a graph used up which op's it was.
    """
    one = c.put(np.asarray(1).astype(c.dtype.numpy))

    def change(which: str) -> tuple[tb.Tensor, tb.Tensor]:
        p, q = (t * 1 for t in _leaves(c, x, y))
        for t, name in ((p, "first"), (q, "second")):
            if which in (name, "both"):
                t.detach()[0] = one
        return p, q

    for said, (which, call) in _HISTORIES.items():
        p, q = change(which)
        c.refuses(f"{said} changed", RuntimeError, lambda call=call, p=p, q=q: call(p, q), said)
    with tb.no_grad():
        p, q = change("both")
        c.attempt("no_grad after a change", lambda: tb.exp(p.detach()))
    for k, said in enumerate(("operand 0 of multiply", "operand 1 of multiply")):
        a, b = _leaves(c, x, y)
        p, q = a * 1, b * 1
        out = p * q
        (p, q)[k].detach()[0] = one
        c.refuses(
            f"{said} changed after the call", RuntimeError,
            lambda out=out, a=a, b=b: tb.grad(out, [a, b], tb.ones_like(out)), said,
        )  # fmt: skip
    a, b = _leaves(c, x, y)
    out = tb.exp(a * 1)
    out.detach()[0] = one
    c.refuses(
        "a result changed", RuntimeError, lambda: tb.grad(out, [a], tb.ones_like(out)),
        "result 0 of exp",
    )  # fmt: skip
    done = tb.exp(a)
    tb.grad(done, [a], tb.ones_like(done))
    c.refuses("a graph used up", RuntimeError, lambda: tb.grad(done, [a], tb.ones_like(done)),
              "saved values of exp")  # fmt: skip
    # A leaf's elements may be changed between calls: nothing is known of how they came about.
    a, b = _leaves(c, x, y)
    with tb.no_grad():
        a[0] = one
    out = a * b
    got = tb.grad(out, [b], tb.ones_like(out))[0]
    due = x.copy()
    due[0] = 1
    c.same("a leaf changed before a call", got, due)
    # With a tangent it is: the derivative of what was there is gone.
    t = c.put(np.ones_like(x))

    def moved(u: tb.Tensor) -> tb.Tensor:
        u.detach()[0] = one
        return u * u

    c.refuses("a primal changed", RuntimeError, lambda: tb.jvp(moved, [c.put(x)], [t]),
              "operand 0 of multiply")  # fmt: skip


def _first_changed(c: Checks, where: str, x: Any, y: Any) -> Any:
    """A gradient of ``p * q`` that reads the first operand: that of the second."""
    a, b = _leaves(c, x, y)
    p, q = (a, b) if where == "the leaf" else (a * 1, b * 1)
    out = p * q
    three = c.put(np.asarray(3).astype(c.dtype.numpy))
    if where == "view of an operand":
        p.detach()[1] = three
    elif where == "operand":
        p[0] = three
    else:
        with tb.no_grad():
            p[:, 1] = three
    return tb.grad(out, [b], tb.ones_like(out))


def _versions(c: Checks, x: Any, y: Any) -> None:
    """Changes that no gradient reads are free."""
    a, b = _leaves(c, x, y)
    p = a * 1
    out = p + b  # its gradient reads nothing
    p += 1
    got = tb.grad(out, [a, b], tb.ones_like(out))
    c.same("gradient of a sum after an operand changed, a", got[0], np.ones_like(x))
    c.same("gradient of a sum after an operand changed, b", got[1], np.ones_like(x))
    k = c.put(y)
    first = a * k
    other = c.put(y)
    other += 1  # another tensor of equal elements
    first_gradient = tb.grad(first, [a], tb.ones_like(first))[0]
    c.same("gradient after another tensor changed", first_gradient, y)
    m = a * 1
    m *= k
    m *= k
    due = (y.astype(np.float64) * y).astype(c.dtype.numpy)
    got = tb.grad(m, [a], tb.ones_like(m))
    c.same("gradient of m *= k twice", got[0], due)
    c.same("k afterwards", k, y)
    v = c.put(x)
    v.requires_grad = True
    result = tb.exp(v)
    copied = tb.asarray(result.detach(), copy=True)
    copied += 1
    c.true("a copy of a result changed", tb.grad(result, [v], tb.ones_like(result))[0] is not None)
    w = c.put(x)
    w.requires_grad = True
    before = tb.square(w)
    c.raises("grad of what has no history", RuntimeError, lambda: tb.grad(c.put(x), w))
    c.raises("cotangent of another shape", ValueError, lambda: tb.grad(before, w, c.put(x[0])))
    c.raises("cotangent missing", RuntimeError, lambda: tb.grad(before, w))
    c.raises("an unused input", RuntimeError, lambda: tb.grad(before, a, tb.ones_like(before)))
    wrong = dt.int32
    c.raises(
        "cotangent of ints",
        TypeError,
        lambda: tb.grad(before, w, c.put(np.ones((3, 3), wrong.numpy))),
    )
