"""The engine of gradients: what rules may return, what ``backward`` leaves behind, cheap calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus import _arguments
from tensorbus._op import OPS, Op
from tensorbus._spec import Spec
from tensorbus_backends import dtypes as dt

from ..layouts import host
from .checks import Checks, surface

__all__ = ["checks_of", "engine"]

Array = NDArray[Any]


@surface("engine", (dt.float32, dt.float64, dt.bfloat16), (dt.float32,))
def engine(c: Checks) -> None:
    """Rules that break their promise, graphs of gradients, the way of a call."""
    _rules(c)
    _graphs(c)
    _accumulated(c)
    _short(c)
    _asked(c)


def _asked(c: Checks) -> None:
    """Cotangents and tangents of another number, shape or dtype than what they belong to."""
    array = np.asarray([1, 2, 3], c.dtype.numpy)
    x = c.put(array)
    x.requires_grad = True
    y, g = x * x, c.put(array)
    for given in ([], [g, g], [g, g, g]):
        said = f"{len(given)} cotangents"
        c.refuses(f"grad with {said}", ValueError,
                  lambda given=given: tb.grad([y], [x], given), "1 output")  # fmt: skip
        c.refuses(f"backward with {said}", ValueError,
                  lambda given=given: tb.backward([y], given), "1 output")  # fmt: skip
    c.refuses("grad of two with one cotangent", ValueError,
              lambda: tb.grad([y, y], [x], [g]), "2 outputs")  # fmt: skip
    square = lambda *xs: xs[0] * xs[-1]  # noqa: E731
    for primals, given in (([g], []), ([g], [g, g]), ([g, g], [g])):
        c.refuses(f"jvp of {len(primals)} with {len(given)} tangents", ValueError,
                  lambda p=primals, t=given: tb.jvp(square, p, t), "tangents")  # fmt: skip
    other = dt.float32 if c.dtype is not dt.float32 else dt.float16
    wrong = {
        "a longer tangent": c.put(np.ones(4, c.dtype.numpy)),
        "a tangent of a dimension more": c.put(array[None]),
    }
    if c.has(other):
        wrong[f"a tangent of {other.name}"] = c.put(np.ones(3, other.numpy))
    for what, t in wrong.items():
        c.raises(what, (ValueError, TypeError), lambda t=t: tb.jvp(square, [g], [t]))
    c.same("a gradient after refusals", tb.grad([y], [x], [g])[0], 2 * array * array)


class _Sum(Op):
    """A sum of two operands whose rules are the test's."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> Any:
        """As the first operand."""
        return [(specs[0].dtype, specs[0].shape)]

    def host(self, device: tb.Device, options: dict[str, Any]) -> Callable[..., Any]:
        """By addition."""
        return lambda a, b: tb.add(a.detach(), b.detach())


def _made(name: str, **rules: Any) -> _Sum:
    """An op that no list shows."""
    op = _Sum(name, **rules)
    OPS.pop(name, None)
    return op


def _rules(c: Checks) -> None:
    """Gradients of another number, shape or dtype than the operands are refused, the op named."""
    array = np.asarray([1, 2, 3], c.dtype.numpy)
    other = dt.float32 if c.dtype is not dt.float32 else dt.float16
    if not c.has(other):
        other = dt.int32

    def leaves() -> tuple[tb.Tensor, tb.Tensor]:
        a, b = c.put(array), c.put(array)
        a.requires_grad = b.requires_grad = True
        return a, b

    bad: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
        "too few": (lambda k, g: [g], ("1 gradients", "2 operands")),
        "too many": (lambda k, g: [g, g, g], ("3 gradients", "2 operands")),
        "none": (lambda k, g: [], ("0 gradients", "2 operands")),
        "another shape": (lambda k, g: [g[:1], g], ("[1]", "[3]")),
        "another shape, second": (lambda k, g: [g, g[:1]], ("[1]", "[3]")),
        "a dimension more": (lambda k, g: [g[None], g], ("[1, 3]", "[3]")),
        "another dtype": (lambda k, g: [tb.astype(g, other), g], (other.name, c.dtype.name)),
        "another dtype, second": (lambda k, g: [None, tb.astype(g, other)], (other.name,)),
    }  # fmt: skip
    for what, (rule, said) in bad.items():
        name = f"judged_{what.replace(' ', '_').replace(',', '')}"
        op = _made(name, vjp=rule)
        a, b = leaves()
        out = op(a, b)
        c.refuses(f"a rule that gives {what}", RuntimeError,
                  lambda out=out: out.backward(c.put(array)), name, *said)  # fmt: skip
        c.refuses(f"a rule that gives {what}, grad", RuntimeError,
                  lambda op=op: tb.grad(op(*leaves()), leaves(), c.put(array)), name,
                  *said)  # fmt: skip
    # None is no gradient, and a rule is asked only for what is wanted.
    op = _made("judged_none", vjp=lambda k, g: [None, g])
    a, b = leaves()
    out = op(a, b)
    c.same("a sum by a made-up op", out, array + array)
    out.backward(c.put(array))
    c.true("a rule that gives None", a.grad is None)
    c.same("a rule that gives None, the other operand", b.grad, array)
    asked: list[tuple[bool, ...]] = []

    def noted(k: Any, g: tb.Tensor) -> list[Any]:
        asked.append(k.needs)
        c.true("operands of a rule", k.count() == 2 and k.input(1).shape == (3,))
        c.same("result of a rule", k.output(0), array + array)
        return [g, g]

    op = _made("judged_needs", vjp=noted)
    for wanted in ((True, False), (False, True), (True, True)):
        a, b = c.put(array), c.put(array)
        a.requires_grad, b.requires_grad = wanted
        op(a, b).backward(c.put(array))
        c.true(f"needs of {wanted}", asked.pop() == wanted)
        c.true(f"gradients of {wanted}", ((a.grad is not None), (b.grad is not None)) == wanted)
    bare = _made("judged_bare")
    a, b = leaves()
    c.true("an op without a rule is recorded", not bare(a, b).requires_grad, "it is")
    c.refuses("an op without a forward rule", RuntimeError,
              lambda: tb.jvp(lambda u: bare(u, b.detach()), [a.detach()], [a.detach()]),
              "judged_bare")  # fmt: skip


def _graphs(c: Checks) -> None:
    """``backward`` leaves gradients without a history, or with one if it was asked for."""
    array = np.asarray([1, 2, 3], c.dtype.numpy)
    for made in (False, True):
        for mode in (tb.enable_grad, tb.no_grad):
            for way in ("method", "function"):
                x = c.put(array)
                x.requires_grad = True
                y = tb.sum(x * x * x)
                with mode():
                    if way == "method":
                        y.backward(create_graph=made)
                    else:
                        tb.backward([y], create_graph=made)
                    recording = tb.is_grad_enabled()
                label = f"grad after {way} backward(create_graph={made}) in {mode.__name__}"
                c.true(label, recording == (mode is tb.enable_grad), "the mode has changed")
                first = x.grad
                if first is None:
                    c.true(label, False, "is none")
                    continue
                c.same(label, first, 3 * array * array)
                c.true(label, first.requires_grad == made, f"requires_grad {first.requires_grad}")
                if made:
                    (again,) = tb.grad(tb.sum(first), x)
                    c.same(f"{label}, differentiated", again, 6 * array)
                found = tb.grad(tb.sum(x * x), x, create_graph=made)[0]
                assert found is not None
                c.true(f"grad(create_graph={made})", found.requires_grad == made)


def _accumulated(c: Checks) -> None:
    """Passes add up: over results, over roads to one leaf, over what was put into ``grad``."""
    array = np.asarray([1, 2, 3], c.dtype.numpy)
    x, y = c.put(array), c.put(array + array)
    x.requires_grad = y.requires_grad = True
    tb.backward([x + y, x * 2, y - x], [c.put(array)] * 3)
    c.same("three results, x", x.grad, 2 * array)
    c.same("three results, y", y.grad, 2 * array)
    kept = x.grad
    tb.sum(x * y).backward()
    c.same("another pass, x", x.grad, 2 * array + 2 * array)
    assert kept is not None
    c.same("another pass, what grad was", kept, 2 * array)
    x.grad = None
    tb.sum(x * 3).backward()
    c.same("after grad = None", x.grad, np.full(3, 3, c.dtype.numpy))
    x.grad = c.put(array)
    tb.sum(x * 3).backward()
    c.same("after grad = t", x.grad, array + np.full(3, 3, c.dtype.numpy))
    assert y.grad is not None
    before = host(y.grad)
    with tb.no_grad():
        x -= x.grad
    c.same("the other's grad after a step", y.grad, before)


def _short(c: Checks) -> None:
    """Options are checked by as many steps at every further call; see also `checks_of`."""
    x = c.put(np.asarray([1, 2, 3], c.dtype.numpy))
    calls: dict[str, Callable[[], Any]] = {
        "sum": lambda: tb.sum(x, axis=0), "reshape": lambda: tb.reshape(x, (3, 1)),
        "x + x": lambda: x + x, "x - 1": lambda: x - 1,
    }  # fmt: skip
    for name, call in calls.items():
        call()
        counts = [len(checks_of(call)) for _ in range(2)]
        most = 0 if name.startswith("x") else 12
        c.true(f"{name}, warm", counts[0] == counts[1] <= most, f"calls of its checks: {counts}")


def checks_of(call: Callable[[], Any]) -> list[str]:
    """Functions of the library's checks of arguments that a call runs."""
    frames: list[str] = []

    def seen(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename == _arguments.__file__:
            frames.append(frame.f_code.co_name)

    before = sys.getprofile()
    if before is not None and not callable(before):  # cProfile's, which cannot be put back
        call()
        return []
    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(before)
    return frames
