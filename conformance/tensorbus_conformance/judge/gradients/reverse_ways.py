"""Ways into reverse mode: entry points, subsets, identity, layouts, views, changes in place."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from ..cases import Case, is_elementwise, split
from ..layouts import LAYOUTS, host, place
from .common import direction
from .subject import Subject, way

__all__: list[str] = []


@way
def _backward(s: Subject) -> None:
    """``backward`` with cotangents, twice: ``grad`` is the gradient, then twice that."""
    tensors = s.leaves(s.moving)
    results = s.call(tensors)
    given = s.placed()
    tb.backward(results, given, retain_graph=True)
    leaves = [tensors[k] for k in s.moving]
    s.same("backward", [_grad(t) for t in leaves], s.plain)
    shared = [t.grad._buffer for t in leaves if t.grad is not None]
    others = [g._buffer for g in given] + [r._buffer for r in results]
    others += [t._buffer for t in tensors]
    s.holds(
        "a gradient shares memory with a cotangent, an operand, a result or another gradient",
        len({id(b) for b in shared}) == len(shared)
        and not {id(b) for b in shared} & {id(b) for b in others},
    )
    tb.backward(results, given)
    s.same("backward twice", [_grad(t) for t in leaves], _doubled(s.plain))
    s.same("the cotangents", [host(g) for g in given], s.cotangents)


def _grad(t: tb.Tensor) -> Any:
    return None if t.grad is None else host(t.grad)


def _apart(s: Subject, leaves: list[tb.Tensor]) -> None:
    """A change in place of one leaf's ``grad`` changes nothing else, nor does a second pass."""
    given = [t for t in leaves if t.grad is not None]
    for k, t in enumerate(given):
        before = [(_grad(u), host(u)) for u in given]
        assert t.grad is not None
        s.holds("the gradient of a leaf has another dtype", t.grad.dtype is t.dtype)
        if t.grad.size:
            t.grad += 1
        for m, (u, (g, x)) in enumerate(zip(given, before, strict=True)):
            if m != k:
                s.same(f"grad of {m} after grad of {k} += 1", [_grad(u)], [g])
            s.same(f"leaf {m} after grad of {k} += 1", [host(u)], [x])


def _doubled(arrays: list[Any]) -> list[Any]:
    with np.errstate(all="ignore"):
        return [None if a is None else a + a for a in arrays]


@way
def _method(s: Subject) -> None:
    """``Tensor.backward`` of one result, and of a one-element result without a cotangent."""
    tensors = s.leaves(s.moving)
    results = s.call(tensors)
    # The default cotangent of a sum of products reaches each result as its own cotangent.
    total: Any = None
    for r, c in zip(results, s.placed(), strict=True):
        part = tb.sum(tb.multiply(r, c))
        total = part if total is None else tb.add(total, part)
    total.backward(retain_graph=True)
    s.same("backward()", [_grad(tensors[k]) for k in s.moving], s.plain)
    _apart(s, [tensors[k] for k in s.moving])
    if len(results) == 1:
        tensors = s.leaves(s.moving)
        (result,) = s.call(tensors)
        result.backward(s.placed()[0])
        s.same("backward(g)", [_grad(tensors[k]) for k in s.moving], s.plain)
        if result.size == 1:
            one = s.leaves(s.moving)
            s.call(one)[0].backward()
            given = [s.put(np.ones_like(s.cotangents[0]))]
            expected = s.grads(s.leaves(s.moving), None, given)
            s.same("backward() of one element", [_grad(one[k]) for k in s.moving], expected)
        else:
            s.raises("no cotangent", RuntimeError, s.call(s.leaves(s.moving))[0].backward)


@way
def _pullback(s: Subject) -> None:
    """``tb.vjp``: value and gradients, the pullback called twice."""
    tensors = s.leaves(())
    value, pull = tb.vjp(s.function(tensors), *[tensors[k] for k in s.moving])
    s.same("value of vjp", [host(v) for v in value], [host(r) for r in s.call(tensors)])
    # What is None for grad is zeros for vjp.
    expected = [
        np.zeros_like(s.arrays[k]) if g is None else g
        for k, g in zip(s.moving, s.plain, strict=True)
    ]
    for turn in ("first", "second"):
        found = pull(*s.placed())
        s.same(f"vjp, {turn} call", [host(g) for g in found], expected)


@way
def _enclosed(s: Subject) -> None:
    """``tb.vjp`` at tensors that the function also has from outside: their gradient is the inner.

    The value still depends on what is outside, for whoever asks for that.
    """
    for wanted in (False, True):
        tensors = s.leaves(s.moving if wanted else ())
        primals = [tensors[k] for k in s.moving]
        run = s.function(tensors)
        weights = [s.put(np.full_like(s.arrays[k], 2)) for k in s.moving]

        def both(*xs: tb.Tensor, run: Any = run, outer: Any = primals, w: Any = weights) -> Any:
            # A term of the outer tensors alone, which counts for nothing here.
            beside = [tb.sum(tb.multiply(p, f)) for p, f in zip(outer, w, strict=True)]
            return (*run(*xs), *beside)

        value, pull = tb.vjp(both, *primals)
        n = len(s.cotangents)
        more = [s.put(np.ones_like(host(v))) for v in value[n:]]
        found = pull(*s.placed(), *more)
        expected = [
            np.zeros_like(s.arrays[k]) if g is None else g
            for k, g in zip(s.moving, s.plain, strict=True)
        ]
        what = f"vjp at tensors used outside, requires_grad={wanted}"
        s.same(what, [host(g) for g in found], expected)
        if wanted:
            outer = tb.grad(value[n:], primals, more, allow_unused=True)
            s.same(f"{what}, of the outer ones", [None if g is None else host(g) for g in outer],
                   [host(w) for w in weights])  # fmt: skip


@way
def _subsets(s: Subject) -> None:
    """Each subset of operands that require a gradient: same results, same gradients, no others."""
    values = [host(r) for r in s.call(s.leaves(()))]
    for count in range(1, len(s.moving)):
        for chosen in combinations(s.moving, count):
            tensors = s.leaves(chosen)
            results = s.call(tensors)
            s.same(f"results, gradient for {chosen}", [host(r) for r in results], values)
            expected = [g if k in chosen else None for k, g in zip(s.moving, s.plain, strict=True)]
            # A result that depends on none of the chosen has no history.
            live = [j for j, r in enumerate(results) if r.requires_grad]
            if not live:
                s.holds(f"no result follows {chosen}", all(e is None for e in expected))
                continue
            given = [s.placed()[j] for j in live]
            found = s.grads(tensors, [results[j] for j in live], given)
            s.same(f"gradient for {chosen}", found, expected)
            again = s.leaves(chosen)
            outs = s.call(again)
            tb.backward([outs[j] for j in live], given)
            found = [_grad(again[k]) for k in s.moving]
            s.same(f"backward, gradient for {chosen}", found, expected)
    s.same("all gradients", s.grads(s.leaves(s.moving)), s.plain)


@way
def _identity(s: Subject) -> None:
    """One tensor as several operands gets the sum of what they would get, in their order."""
    for k, m in combinations(s.moving, 2):
        if s.arrays[k].shape != s.arrays[m].shape:
            continue
        tensors = s.leaves(s.moving)
        apart = list(tensors)
        apart[m] = s.put(s.arrays[k])
        apart[m].requires_grad = True
        one, two = (s.grads(apart)[s.moving.index(i)] for i in (k, m))
        shared = s.leaves(s.moving)
        shared[m] = shared[k]
        found = s.grads(shared)[s.moving.index(k)]
        if one is None or two is None:
            expected = two if one is None else one
        else:
            expected = host(tb.add(s.put(one), s.put(two)))
        s.same(f"operands {k} and {m} are one tensor", [found], [expected])
    # A sum of the op with itself, whatever its operands are.
    tensors = s.leaves(s.moving)
    first, second = s.call(tensors), s.call(tensors)
    found = s.grads(tensors, [*first, *second], [*s.placed(), *s.placed()])
    s.same("the call twice", found, _doubled(s.plain))


@way
def _contributions(s: Subject) -> None:
    """More than two contributions are added in the written order: latest call, then position.

    Two can be exchanged and three cannot: one tensor is all operands that are like it, and is used
    by a call before and by one after, itself or by way of a view.
    """
    if is_elementwise(s.session.op) and len(s.arrays) > 1:
        wide = [np.array(a) for a in np.broadcast_arrays(*s.arrays)]
        args, options = split(s.case)[1](wide)
        s = Subject(s.session, replace(s.case, args=tuple(args), options=options), s.outcome, s.rng)
    groups: dict[Any, list[int]] = {}
    for k in s.moving:
        if s.arrays[k].size:
            groups.setdefault((s.arrays[k].shape, s.arrays[k].dtype), []).append(k)
    for members in groups.values():
        first = s.arrays[members[0]]
        apart = s.leaves(s.moving)
        for m in members[1:]:
            apart[m] = s.put(first)
            apart[m].requires_grad = True
        given = dict(zip(s.moving, s.grads(apart), strict=True))
        parts = [given[m] for m in members if given[m] is not None]
        factors = [direction(s.rng, first) for _ in range(2)]
        before, after = (host(tb.multiply(s.put(f), s.put(f))) for f in factors)
        for viewed in (False, True):
            tensors = s.leaves(s.moving)
            leaf = s.put(first)
            leaf.requires_grad = True
            used = tb.reshape(leaf, first.shape[::-1]) if viewed else leaf
            if viewed and used is leaf:
                continue
            one = tb.multiply(leaf, s.put(factors[0]))
            for m in members:
                tensors[m] = tb.reshape(used, first.shape) if viewed else leaf
            with tb.trace() as calls:
                results = s.call(tensors)
            if any(r.is_leaf for r in results):
                continue  # what is handed back has its cotangent before any call gives one
            two = tb.multiply(leaf, s.put(factors[1]))
            cotangents = [s.put(factors[0]), *s.placed(), s.put(factors[1])]
            (found,) = tb.grad([one, *results, two], [leaf], cotangents)
            # Each view of the view is a call of its own, made one after the other.
            orders = [parts[::-1] if viewed else parts]
            if len([r for r in calls if not r.depth]) > 1:  # as a function of several calls has
                orders.append(orders[0][::-1])
            dues = [
                _fold(s, [after, before, _fold(s, o)] if viewed else [after, *o, before])
                for o in orders
            ]
            got = None if found is None else host(found)
            right = [d for d in dues if got is not None and d.tobytes() == got.tobytes()]
            what = f"contributions{' by views' if viewed else ''} of operands {members}"
            s.same(what, [got], [right[0] if right else dues[0]])


def _fold(s: Subject, arrays: list[Any]) -> Any:
    """One sum after the other; None is no term, and of no terms there is none."""
    total: Any = None
    for a in arrays:
        if a is not None:
            total = s.put(a) if total is None else tb.add(total, s.put(a))
    return None if total is None else host(total)


@way
def _layouts(s: Subject) -> None:
    """Cotangents in every memory layout."""
    for layout in LAYOUTS[1:]:
        placed = [place(s.session.device, c, layout) for c in s.cotangents]
        tensors = s.leaves(s.moving)
        found = s.grads(tensors, None, [p[0] for p in placed])
        values = [np.array(p[1]) for p in placed]
        plain = s.grads(s.leaves(s.moving), None, [s.put(v) for v in values])
        s.same(f"{layout} cotangent", found, plain)
    one = [np.full_like(c, 1.5) for c in s.cotangents]
    wide = [tb.broadcast_to(s.put(c.reshape(-1)[:1].reshape(())), c.shape) for c in one if c.size]
    if len(wide) == len(one):
        found = s.grads(s.leaves(s.moving), None, wide)
        plain = s.grads(s.leaves(s.moving), None, [s.put(c) for c in one])
        s.same("a cotangent without strides", found, plain)


@way
def _refusals(s: Subject) -> None:
    """A cotangent of another dtype or shape, a graph used up, an input without history."""
    tensors = s.leaves(s.moving)
    results = s.call(tensors)
    known = s.session.device.capabilities.dtypes
    for other in (dt.float32, dt.float64, dt.float16, dt.int32):
        if other.name in known and all(r.dtype is not other for r in results):
            wrong = [s.put(np.ones(c.shape, other.numpy)) for c in s.cotangents]
            s.raises(
                f"{other.name} cotangents",
                TypeError,
                lambda wrong=wrong: s.grads(tensors, results, wrong),  # type: ignore[misc]
            )
    longer = [s.put(np.zeros((*c.shape, 2), c.dtype)) for c in s.cotangents]
    s.raises("a cotangent of another shape", ValueError, lambda: s.grads(tensors, results, longer))
    s.same("after refusals", s.grads(tensors, results), s.plain)
    if not all(r.is_leaf for r in results):  # an operand handed back has no graph
        s.raises("a graph used up", RuntimeError, lambda: s.grads(tensors, results))
    stranger = s.leaves(s.moving)
    s.raises(
        "an input that was not used",
        RuntimeError,
        lambda: tb.grad(s.call(tensors), [stranger[s.moving[0]]], s.placed()),
    )


@way
def _views(s: Subject) -> None:
    """Operands that are views: the gradient arrives in what they are views of."""
    for what in ("slice", "transpose", "reshape"):
        tensors, bases, back = s.leaves(()), [], []
        for k in s.moving:
            base, view, pick = _view_of(s, what, s.arrays[k])
            tensors[k] = view
            bases.append(base)
            back.append(pick)
        found = tb.grad(s.call(tensors), bases, s.placed(), allow_unused=True)
        arrays = [None if g is None else host(g) for g in found]
        inside = [None if g is None else pick(g) for g, pick in zip(arrays, back, strict=True)]
        s.same(f"{what} as operand", inside, s.plain, numbers=what == "slice")
        for g, a in zip(arrays, inside, strict=True):
            if g is not None and a is not None:
                gone = np.count_nonzero(g) == np.count_nonzero(a)
                s.holds(f"{what}: elements outside the view have a gradient", gone)


def _view_of(s: Subject, what: str, array: Any) -> tuple[tb.Tensor, tb.Tensor, Any]:
    """(base that requires a gradient, a view of it that holds `array`, array of base to view)."""
    if what == "slice" and array.ndim:
        base = s.put(np.concatenate([array[:1], array, array[:1]]))
        base.requires_grad = True
        return base, base[1 : 1 + array.shape[0]], lambda g: g[1 : 1 + array.shape[0]].copy()
    if what == "transpose":
        base = s.put(np.array(array.T, order="C"))
        base.requires_grad = True
        order = tuple(reversed(range(array.ndim)))
        return base, tb.permute_dims(base, order), lambda g: np.array(g.T, order="C")
    base = s.put(array.reshape(-1))
    base.requires_grad = True
    return base, tb.reshape(base, array.shape), lambda g: g.reshape(array.shape)


@way
def _changes(s: Subject) -> None:
    """Memory changed after the call: the right gradient or an error; before it, no matter."""
    s = Subject(s.session, _owned(s.case), s.outcome, s.rng)
    early = s.leaves(())
    for k in range(len(early)):
        if s.arrays[k].size:
            early[k][...] = early[k]
    for k in s.moving:
        early[k].requires_grad = True
    s.same("operands changed before the call", s.grads(early), s.plain)
    for k in range(len(s.arrays)):
        if not s.arrays[k].size:
            continue
        tensors = s.leaves(s.moving)
        results = s.call(tensors)
        tensors[k].detach()[...] = True if s.arrays[k].dtype == bool else 1
        _right_or_refused(s, f"operand {k} changed after the call", tensors, results)
    for k in range(len(s.cotangents)):
        tensors = s.leaves(s.moving)
        results = s.call(tensors)
        bare = results[k].detach()
        if not bare.size or 0 in bare.strides:
            continue
        bare[...] = 1
        _right_or_refused(s, f"result {k} changed after the call", tensors, results)


def _owned(case: Case) -> Case:
    """The call on arrays whose elements share no memory, as writing into shared ones is refused."""
    arrays, rebuild = split(case)
    bounds = [np.lib.array_utils.byte_bounds(a) for a in arrays]
    apart = [
        np.array(a, order="C") if high - low < a.nbytes else a
        for a, (low, high) in zip(arrays, bounds, strict=True)
    ]
    args, options = rebuild(apart)
    return replace(case, args=tuple(args), options=options)


def _right_or_refused(
    s: Subject, what: str, tensors: list[tb.Tensor], results: list[tb.Tensor]
) -> None:
    try:
        found = s.grads(tensors, results)
    except RuntimeError:
        s.outcome.decided += 1
        return
    s.same(what, found, s.plain)


@way
def _uses(s: Subject) -> None:
    """Results used twice, results not used, operands that are results themselves."""
    tensors = s.leaves(s.moving)
    results = s.call(tensors)
    found = s.grads(tensors, [*results, *results], [*s.placed(), *s.placed()])
    with np.errstate(all="ignore"):
        twice = [s.put(c + c) for c in s.cotangents]
    s.same("results used twice", found, s.grads(s.leaves(s.moving), None, twice))
    if len(s.cotangents) > 1:
        tensors = s.leaves(s.moving)
        zero = [s.put(c * (j == 0)) for j, c in enumerate(s.cotangents)]
        whole = [g if g is not None and g.any() else None for g in s.grads(tensors, None, zero)]
        tensors = s.leaves(s.moving)
        part = s.grads(tensors, s.call(tensors)[:1], s.placed()[:1])
        part = [g if g is not None and g.any() else None for g in part]
        s.same("one result of several", part, whole, numbers=True)
    leaves = s.leaves(s.moving)
    tensors = list(leaves)
    for k in s.moving:
        tensors[k] = tb.positive(leaves[k])
    results = s.call(tensors)
    s.same("operands that are results", s.grads(tensors, results, retain_graph=True), s.plain)
    s.same("leaves behind them", s.grads(leaves, results, retain_graph=True), s.plain)
    both = [t for k in s.moving for t in (tensors[k], leaves[k])]
    mixed = tb.grad(results, both, s.placed(), allow_unused=True)
    s.same("results and the leaves behind them", [None if g is None else host(g) for g in mixed],
           [g for g in s.plain for _ in range(2)])  # fmt: skip


@way
def _modes(s: Subject) -> None:
    """no_grad, detach, create_graph and retain_graph."""
    tensors = s.leaves(s.moving)
    values = [host(r) for r in s.call(s.leaves(()))]
    with tb.no_grad():
        quiet = s.call(tensors)
    new = [q for q in quiet if all(q is not t for t in tensors)]
    s.holds("a result under no_grad requires a gradient", not any(q.requires_grad for q in new))
    s.same("results under no_grad", [host(q) for q in quiet], values)
    bare = [t.detach() for t in tensors]
    s.holds("a detached operand is followed", not any(r.requires_grad for r in s.call(bare)))
    results = s.call(tensors)
    s.same("recorded results", [host(r) for r in results], values)
    s.same("create_graph", s.grads(tensors, results, create_graph=True), s.plain)
    s.same("after create_graph", s.grads(tensors, results, retain_graph=True), s.plain)
    s.same("after retain_graph", s.grads(tensors, results), s.plain)
    s.holds("grad has put something into .grad", all(t.grad is None for t in tensors))
