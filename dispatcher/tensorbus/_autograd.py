"""Reverse and forward mode over recorded operations.

Reverse mode: every recorded call is a `Node`; `backward` visits nodes from the last recorded to
the first, so contributions to one gradient are added in a fixed order: by the sequence number of
the call that used the value, latest first, then by operand position.

Forward mode: tensors carry tangents by level; a rule for level L sees its operands without the
tangents of L, so levels nest without confusing perturbations.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from tensorbus_backends.floating import in_default_arithmetic

from ._history import Node, Track, below, set_requires_grad, version
from ._shown import shown
from ._state import Change, Policy, enable_grad, no_grad, settings
from ._tensor import Tensor
from .ops.creation import ones_like, zeros_like
from .ops.elementwise_arithmetic import add, positive
from .ops.manipulation import contiguous

if TYPE_CHECKING:
    pass

__all__ = ["backward", "grad", "jvp", "vjp"]

_levels = itertools.count(1)


def _allowed(policy: Policy) -> AbstractContextManager[None]:
    """What a call was allowed, its gradient is allowed too."""
    return nullcontext() if settings().policy != "error" else Change("policy", policy)


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else add(a, b)


@in_default_arithmetic
def _run(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor],
    wanted: set[int] | None,
    retain: bool,
    create: bool,
) -> dict[tuple[int, int], Tensor]:
    """Propagate; returns gradients by (id of node, output index) of leaves and wanted nodes."""
    pending: dict[int, list[Tensor | None]] = {}
    queue: list[Node] = []
    found: dict[tuple[int, int], Tensor] = {}
    alive: list[Node] = []

    def give(track: Track, value: Tensor) -> None:
        node = track.node
        assert node is not None
        slots = pending.get(id(node))
        if slots is None:
            slots = pending[id(node)] = [None] * len(node.specs)
            heapq.heappush(queue, node)
            alive.append(node)
        slots[track.index] = _sum(slots[track.index], value)

    for out, given in zip(outputs, gradients, strict=True):
        if out._track is None or out._track.node is None:
            raise RuntimeError(
                "this tensor has no recorded history: no operand had requires_grad set, or it "
                "was made under no_grad"
            )
        give(out._track, given)
    while queue:
        node = heapq.heappop(queue)
        slots = pending.pop(id(node))
        for k, g in enumerate(slots):
            if g is not None and (node.leaf or (wanted is not None and id(node) in wanted)):
                found[id(node), k] = g
        if node.op is None:
            continue
        rule = node.op.vjp
        assert rule is not None
        context = node.context(create)
        if node.policy == "error":
            received = rule(context, *slots)
        else:
            with _allowed(node.policy):
                received = rule(context, *slots)
        if len(received) != len(node.parents):
            raise RuntimeError(
                f"the gradient rule of {node.op.name} returned {len(received)} gradients for "
                f"{len(node.parents)} operands"
            )
        for track, g, spec in zip(
            node.parents,
            received,
            (context.input_spec(k) for k in range(len(received))),
            strict=True,
        ):
            if track is None or g is None:
                continue
            if g.shape != spec.shape or g.dtype is not spec.dtype:
                raise RuntimeError(
                    f"the gradient rule of {node.op.name} returned {g._spec} for an operand {spec}"
                )
            give(track, g)
        if not retain and not create:
            node.release()
    return found


def _ones_like(out: Tensor) -> Tensor:
    if out.size != 1:
        raise RuntimeError(
            f"the gradient of a tensor of shape {out.shape} needs a cotangent of that shape; "
            "only a one-element tensor has a default"
        )
    return ones_like(out)


def _given(what: str, tensors: Any) -> list[Tensor]:
    """One tensor or a sequence of them, as a list; TypeError otherwise."""
    if isinstance(tensors, Tensor):
        return [tensors]
    if isinstance(tensors, Sequence) and all(isinstance(t, Tensor) for t in tensors):
        return list(tensors)
    raise TypeError(f"{what} are a tensor or a sequence of tensors, not {shown(tensors)}")


def _cotangents(
    outputs: Sequence[Tensor], gradients: Tensor | Sequence[Tensor] | None
) -> list[Tensor]:
    if gradients is not None:
        given = _given("cotangents", gradients)
    else:
        given = [_ones_like(o) for o in outputs]
    if len(given) != len(outputs):
        raise ValueError(f"{len(outputs)} outputs need {len(outputs)} cotangents, not {len(given)}")
    for out, g in zip(outputs, given, strict=True):
        if g.shape != out.shape:
            raise ValueError(f"a cotangent has shape {g.shape}, its output {out.shape}")
        if g.dtype is not out.dtype:
            raise TypeError(f"a cotangent is {g.dtype.name}, its output {out.dtype.name}")
    return list(given)


def backward(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> None:
    """Add gradients of `outputs` into ``grad`` of the leaves.

    Threads may do so at the same time for graphs that share leaves: no gradient is lost, and those
    of one call are added to a leaf in one piece, in the order in which the calls get there.

    Args:
        outputs: Recorded tensors.
        gradients: Cotangents of the same shapes; by default 1 for one-element outputs.
        retain_graph: Keep saved values, so that backward can run again.
        create_graph: Record the gradient computation itself, for higher order.
    """
    outputs = _given("outputs", outputs)
    cotangents = _cotangents(outputs, gradients)
    nodes: dict[int, Node] = {}
    _collect(outputs, nodes)
    with enable_grad() if create_graph else no_grad():
        found = _run(outputs, cotangents, None, retain_graph, create_graph)
        # A rule may hand on its cotangent, or one value to several operands.
        taken = {id(t._buffer) for t in (*cotangents, *outputs)}
        for (node_id, _), g in sorted(found.items(), key=lambda item: nodes[item[0][0]].seq):
            reference = nodes[node_id].leaf_tensor
            leaf = reference() if reference is not None else None
            if leaf is not None:
                own = _own(g, taken)
                with _accumulating:
                    leaf.grad = own = _sum(leaf.grad, own)
                taken.add(id(own._buffer))


_accumulating = threading.RLock()
"""Held from reading the ``grad`` of a leaf to setting it: of two threads that both read it before
either has set it, one would lose what the other adds.  The sum is a new tensor, so whoever reads
``grad`` without the lock has the old sum or the new one, whole.  One lock for all leaves: what it
covers is one launch.  Nothing waits inside for a thread that could want it: adding takes locks of
the device, and no device calls `backward`.  The thread that holds it may take it again, since a
finalizer may run there."""


def _after_fork() -> None:
    global _accumulating
    _accumulating = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _own(g: Tensor, taken: set[int]) -> Tensor:
    """`g`, or a copy where its memory is another tensor's or its elements share places.

    The user may change ``grad`` in place.
    """
    whole = g._offset == 0 and all(s or n < 2 for s, n in zip(g.strides, g.shape, strict=True))
    return g if whole and id(g._buffer) not in taken else positive(contiguous(g))


def _collect(outputs: Sequence[Tensor], nodes: dict[int, Node]) -> None:
    stack = [o._track.node for o in outputs if o._track is not None and o._track.node is not None]
    while stack:
        node = stack.pop()
        if id(node) not in nodes:
            nodes[id(node)] = node
            stack += [p.node for p in node.parents if p is not None and p.node is not None]


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of `outputs` with respect to `inputs`, without touching ``grad``.

    Args:
        outputs: Recorded tensors.
        inputs: Tensors that they were computed from, leaves or not.
        grad_outputs: Cotangents; by default 1 for one-element outputs.
        retain_graph: Keep saved values, so that the graph can be used again.
        create_graph: Record the gradient computation itself, for higher order.
        allow_unused: Give None for an input that the outputs do not depend on, instead of raising.

    Returns:
        One tensor for each input, of its shape and dtype.

    Raises:
        RuntimeError: An input was not used and `allow_unused` is False.
    """
    outs, ins = _given("outputs", outputs), _given("inputs", inputs)
    cotangents = _cotangents(outs, grad_outputs)
    tracks = [t._track for t in ins]
    nodes = {id(t.node) for t in tracks if t is not None and t.node is not None}
    with enable_grad() if create_graph else no_grad():
        found = _run(outs, cotangents, nodes, retain_graph, create_graph)
    result: list[Tensor | None] = []
    for k, track in enumerate(tracks):
        node = None if track is None else track.node
        g = None if track is None or node is None else found.get((id(node), track.index))
        if g is None and not allow_unused:
            raise RuntimeError(
                f"input {k} was not used in computing the outputs (or does not require a "
                "gradient); pass allow_unused=True to get None for it"
            )
        result.append(g)
    return tuple(result)


def _primals(primals: Sequence[Tensor]) -> list[Tensor]:
    return [Tensor(p._buffer, p._spec, p._offset, p._track) for p in primals]


def vjp(
    function: Callable[..., Any], *primals: Tensor
) -> tuple[Any, Callable[..., tuple[Tensor, ...]]]:
    """Value of ``function(*primals)`` and a function from cotangents to gradients.

    The returned function may be called more than once, and is itself differentiable.
    """
    with enable_grad():
        inputs = []
        for p in primals:
            fresh = Tensor(p._buffer, p._spec, p._offset, p._track)
            if not p.requires_grad:
                set_requires_grad(fresh, True)
            else:
                fresh = positive(fresh)
            inputs.append(fresh)
        value = function(*inputs)
    outputs = [value] if isinstance(value, Tensor) else list(value)

    def pull(*cotangents: Tensor) -> tuple[Tensor, ...]:
        live = [k for k, o in enumerate(outputs) if o.requires_grad]
        if not live:
            return tuple(zeros_like(p) for p in primals)
        found = grad(
            [outputs[k] for k in live],
            inputs,
            [cotangents[k] for k in live],
            retain_graph=True,
            create_graph=settings().grad,
            allow_unused=True,
        )
        return tuple(zeros_like(p) if g is None else g for g, p in zip(found, primals, strict=True))

    bare = [o.detach() if not any(p.requires_grad for p in primals) else o for o in outputs]
    return (bare[0] if isinstance(value, Tensor) else tuple(bare)), pull


def jvp(
    function: Callable[..., Any], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Any, Any]:
    """Value of ``function(*primals)`` and its derivative in the direction of `tangents`.

    Raises:
        ValueError: A tangent has not the shape of its primal.
    """
    primals, tangents = _given("primals", primals), _given("tangents", tangents)
    if len(primals) != len(tangents):
        raise ValueError(f"{len(primals)} primals need {len(primals)} tangents")
    level = next(_levels)
    inputs = []
    for p, t in zip(primals, tangents, strict=True):
        if p.shape != t.shape or p.dtype is not t.dtype:
            raise ValueError(f"a tangent is {t._spec}, its primal {p._spec}")
        track = p._track
        outer = {} if track is None else track.tangents
        node = None if track is None else track.node
        index = 0 if track is None else track.index
        made = Track(node, index, {**outer, level: t}, version(p))
        inputs.append(Tensor(p._buffer, p._spec, p._offset, made))
    value = function(*inputs)
    outputs = [value] if isinstance(value, Tensor) else list(value)
    derivatives = [
        zeros_like(o)
        if o._track is None or level not in o._track.tangents
        else o._track.tangents[level]
        for o in outputs
    ]
    plain = [below(o, level) for o in outputs]
    if isinstance(value, Tensor):
        return plain[0], derivatives[0]
    return tuple(plain), tuple(derivatives)
