"""Reverse and forward mode over recorded operations.

Reverse mode: every recorded call is a `Node`; `backward` visits nodes from the last recorded to
the first, so contributions to one gradient are added in a fixed order: by the sequence number of
the call that used the value, latest first, then by operand position.

Forward mode: tensors carry tangents by level; a rule for level L sees its operands without the
tangents of L, so levels nest without confusing perturbations.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from tensorbus_backends.floating import in_default_arithmetic

from ._shown import shown
from ._state import Change, Policy, enable_grad, no_grad, settings
from ._tensor import Tensor

if TYPE_CHECKING:
    from ._op import Op
    from ._spec import Spec

__all__ = ["Context", "Node", "Track", "backward", "grad", "jvp", "record", "vjp"]

_sequence = itertools.count()
_levels = itertools.count(1)


_NO_TANGENTS: dict[int, Tensor] = {}
"""Of all that takes part in no forward level; tangents are never changed in place."""


class Track:
    """What a tensor takes part in: a node's output, and tangents of active forward levels.

    `version` is that of the tensor's memory when the history was attached: if it has changed since
    through another tensor (a view, a base), the history no longer tells how the values came about.
    """

    __slots__ = ("index", "node", "tangents", "version")

    def __init__(
        self,
        node: Node | None,
        index: int,
        tangents: dict[int, Tensor] | None,
        version: int,
    ) -> None:
        self.node, self.index, self.tangents = node, index, tangents or _NO_TANGENTS
        self.version = version


class Node:
    """One recorded call, or a leaf.

    Attributes:
        seq: Number in the order of recording.
        parents: Track of each operand, as it was when the call was recorded.
        context: What the op's rule needs.
        specs: Specs of the outputs.
        leaf: The tensor itself (weakly), where the user asked for its gradient.
        policy: The fallback policy of the call: its gradient may fall back as it did.
    """

    __slots__ = ("context", "leaf", "leaf_tensor", "op", "parents", "policy", "seq", "specs")

    def __init__(
        self,
        op: Op | None,
        parents: list[Track | None],
        context: Context | None,
        specs: list[Spec],
        leaf: Tensor | None = None,
        policy: Policy = "error",
    ) -> None:
        self.seq = next(_sequence)
        self.policy = policy
        self.op, self.parents, self.context, self.specs = op, parents, context, specs
        self.leaf = leaf is not None
        self.leaf_tensor = None if leaf is None else weakref.ref(leaf)

    def __lt__(self, other: Node) -> bool:
        return self.seq > other.seq


class Context:
    """What a gradient rule may use.

    Attributes:
        options: The call's keyword options.
        needs: For each operand whether its gradient is wanted.
    """

    __slots__ = ("_inputs", "_node", "_outputs", "_versions", "needs", "op", "options")

    def __init__(
        self,
        op: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        options: dict[str, Any],
        needs: Sequence[bool],
    ) -> None:
        self.op, self.options, self.needs = op, options, tuple(needs)
        self._inputs: tuple[Tensor, ...] | None = tuple(inputs)
        self._outputs: tuple[Tensor, ...] | None = tuple(outputs)
        # None: nothing had been changed in place anywhere.
        self._versions = [version(t) for t in (*inputs, *outputs)] if _versions else None
        self._node: Node | None = None

    def input(self, k: int) -> Tensor:
        """Operand `k` as it was; RuntimeError if it has been changed in place since."""
        return self._saved(self._inputs, k, k, "operand")

    def output(self, k: int = 0) -> Tensor:
        """Result `k`; RuntimeError if it has been changed in place since."""
        kept = self._saved(self._outputs, k, len(self._inputs or ()) + k, "result")
        if self._node is None:
            return kept
        tangents = None if kept._track is None else kept._track.tangents
        track = Track(self._node, k, tangents, version(kept))
        return Tensor(kept._buffer, kept._spec, kept._offset, track)

    def _saved(self, kept: tuple[Tensor, ...] | None, k: int, place: int, what: str) -> Tensor:
        if kept is None:
            raise RuntimeError(
                f"the saved values of {self.op} are gone: backward ran through it already; "
                "pass retain_graph=True to the first backward"
            )
        if version(kept[k]) != (0 if self._versions is None else self._versions[place]):
            raise RuntimeError(
                f"{what} {k} of {self.op} is needed for its gradient but was changed in place "
                f"after the call; change a copy instead"
            )
        return kept[k]

    def input_spec(self, k: int) -> Spec:
        """Spec of operand `k`, available even if its values have changed."""
        if self._inputs is None:
            self._saved(None, k, k, "operand")
        assert self._inputs is not None
        return self._inputs[k]._spec

    def count(self) -> int:
        """Number of operands."""
        return len(self.needs)

    def release(self) -> None:
        """Drop the saved tensors."""
        self._inputs = self._outputs = None


_versions: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def version(tensor: Tensor) -> int:
    """How often the tensor's memory has been changed in place."""
    return _versions.get(tensor._buffer, 0) if _versions else 0


def bump(tensor: Tensor) -> None:
    """Note a change in place."""
    _versions[tensor._buffer] = version(tensor) + 1


def snapshot(tensor: Tensor) -> Tensor:
    """A tensor object that later changes of `tensor`'s history do not reach."""
    return Tensor(tensor._buffer, tensor._spec, tensor._offset, tensor._track)


def set_requires_grad(tensor: Tensor, value: bool) -> None:
    """Make `tensor` a leaf whose gradient is wanted, or stop that."""
    track = tensor._track
    if track is not None and track.node is not None and not track.node.leaf:
        raise RuntimeError(
            "requires_grad can be set on leaves only; this tensor is the result of a recorded "
            "operation: use detach() first"
        )
    if value and not tensor.dtype.is_float:
        raise TypeError(f"only floating tensors have gradients, this one is {tensor.dtype.name}")
    tangents = track.tangents if track is not None else None
    if value:
        if track is None or track.node is None:
            node = Node(None, [], None, [tensor._spec], tensor)
            tensor._track = Track(node, 0, tangents, version(tensor))
    else:
        tensor._track = Track(None, 0, tangents, version(tensor)) if tangents else None


def record(
    op: Op, inputs: Sequence[Tensor], options: dict[str, Any], outputs: Sequence[Tensor]
) -> None:
    """Attach history and tangents to the outputs of a call, if any operand has them.

    Raises:
        RuntimeError: The memory of a tracked operand was changed through another tensor.
    """
    if _versions:
        for k, t in enumerate(inputs):
            _check_history(op.name, k, t)
    parents: list[Track | None] = []
    moving = recorded = False
    for t in inputs:
        track = t._track
        if track is not None:
            if track.tangents:
                moving = True
            if track.node is None or t._spec.dtype.kind != "f":
                track = None
            else:
                recorded = True
        parents.append(track)
    node = None
    now = settings()
    if recorded and op.vjp is not None and now.grad:
        node = Node(op, parents, None, [o._spec for o in outputs], None, now.policy)
    elif not moving:
        return
    saved = None
    if node is not None:
        # What an operand's history was now: it may be given another one later.
        saved = [Tensor(t._buffer, t._spec, t._offset, t._track) for t in inputs]
    if moving:
        _attach_tangents(op, inputs, options, outputs, node)
        # Outputs are kept without their node: node -> output -> node would be a cycle.
        bare = [Tensor(o._buffer, o._spec, o._offset, _moving(o)) for o in outputs]
    else:
        bare = []
        for k, out in enumerate(outputs):
            bare.append(Tensor(out._buffer, out._spec, out._offset))
            if out._spec.dtype.kind == "f":
                out._track = Track(node, k, None, version(out))
    if node is not None and saved is not None:
        wanted = [p is not None for p in parents]
        node.context = Context(op.name, saved, bare, options, wanted)


def _attach_tangents(
    op: Op,
    inputs: Sequence[Tensor],
    options: dict[str, Any],
    outputs: Sequence[Tensor],
    node: Node | None,
) -> None:
    """Give the outputs their history and tangents."""
    # The node comes first: a forward rule that uses a result depends on what made it.
    tangents = _forward(op, inputs, options, outputs, node)
    for k, out in enumerate(outputs):
        levels = {level: t[k] for level, t in tangents.items() if t[k] is not None}
        if (node is not None and out.dtype.is_float) or levels:
            kept = node if out.dtype.is_float else None
            out._track = Track(kept, k, levels, version(out))


def _moving(t: Tensor) -> Track | None:
    """The tangents of a tensor without its node."""
    track = t._track
    return Track(None, 0, track.tangents, track.version) if track and track.tangents else None


def _check_history(op: str, k: int, tensor: Tensor) -> None:
    track = tensor._track
    if track is None or track.version == version(tensor):
        return
    leaf = track.node is not None and track.node.leaf
    if track.tangents or not leaf:
        raise RuntimeError(
            f"operand {k} of {op} has a recorded history, but its memory was changed in place "
            "through another tensor (a view of it, or the tensor that it is a view of) since; "
            "change a copy instead, or use detach() if no gradient is wanted"
        )


@in_default_arithmetic
def _forward(
    op: Op,
    inputs: Sequence[Tensor],
    options: dict[str, Any],
    outputs: Sequence[Tensor],
    node: Node | None,
) -> dict[int, list[Any]]:
    levels = sorted({lv for t in inputs if t._track is not None for lv in t._track.tangents})
    result: dict[int, list[Any]] = {}
    for level in levels:
        if op.jvp is None:
            raise RuntimeError(f"{op.name} has no forward-mode rule")
        tangents = [None if t._track is None else t._track.tangents.get(level) for t in inputs]
        bare = [_below(t, level) for t in inputs]
        outs = [_seen(o, k, node, result) for k, o in enumerate(outputs)]
        context = Context(op.name, bare, outs, options, [t is not None for t in tangents])
        made = op.jvp(context, tangents)
        result[level] = list(made) if isinstance(made, tuple | list) else [made]
    return result


def _seen(out: Tensor, k: int, node: Node | None, done: dict[int, list[Any]]) -> Tensor:
    """Result `k` with its node and the tangents of the levels that are done: the outer ones."""
    kept = {level: made[k] for level, made in done.items() if made[k] is not None}
    mine = node if out.dtype.is_float else None
    if mine is None and not kept:
        return out
    return Tensor(out._buffer, out._spec, out._offset, Track(mine, k, kept, version(out)))


def _below(t: Tensor, level: int) -> Tensor:
    """The tensor as forward level `level` sees it: tangents of outer levels only."""
    if t._track is None or not t._track.tangents:
        return t
    kept = {lv: v for lv, v in t._track.tangents.items() if lv < level}
    node = t._track.node
    track = None
    if kept or node is not None:
        track = Track(node, t._track.index, kept, t._track.version)
    return Tensor(t._buffer, t._spec, t._offset, track)


def _allowed(policy: Policy) -> AbstractContextManager[None]:
    """What a call was allowed, its gradient is allowed too."""
    return nullcontext() if settings().policy != "error" else Change("policy", policy)


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    from . import ops

    return b if a is None else ops.add(a, b)


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
        if node.op is None or node.context is None:
            continue
        rule = node.op.vjp
        assert rule is not None
        context = node.context
        if create:
            # A copy: another thread may run through the same graph, recording nothing.
            context = copy.copy(context)
            context._node = node
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
            (node.context.input_spec(k) for k in range(len(received))),
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
            node.context.release()
    return found


def _ones_like(out: Tensor) -> Tensor:
    from . import ops

    if out.size != 1:
        raise RuntimeError(
            f"the gradient of a tensor of shape {out.shape} needs a cotangent of that shape; "
            "only a one-element tensor has a default"
        )
    return ops.ones_like(out)


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
    from . import ops

    whole = g._offset == 0 and all(s or n < 2 for s, n in zip(g.strides, g.shape, strict=True))
    return g if whole and id(g._buffer) not in taken else ops.positive(ops.contiguous(g))


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
    from . import ops

    with enable_grad():
        inputs = []
        for p in primals:
            fresh = Tensor(p._buffer, p._spec, p._offset, p._track)
            if not p.requires_grad:
                set_requires_grad(fresh, True)
            else:
                fresh = ops.positive(fresh)
            inputs.append(fresh)
        value = function(*inputs)
    outputs = [value] if isinstance(value, Tensor) else list(value)

    def pull(*cotangents: Tensor) -> tuple[Tensor, ...]:
        live = [k for k, o in enumerate(outputs) if o.requires_grad]
        if not live:
            return tuple(ops.zeros_like(p) for p in primals)
        found = grad(
            [outputs[k] for k in live],
            inputs,
            [cotangents[k] for k in live],
            retain_graph=True,
            create_graph=settings().grad,
            allow_unused=True,
        )
        return tuple(
            ops.zeros_like(p) if g is None else g for g, p in zip(found, primals, strict=True)
        )

    bare = [o.detach() if not any(p.requires_grad for p in primals) else o for o in outputs]
    return (bare[0] if isinstance(value, Tensor) else tuple(bare)), pull


def jvp(
    function: Callable[..., Any], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Any, Any]:
    """Value of ``function(*primals)`` and its derivative in the direction of `tangents`.

    Raises:
        ValueError: A tangent has not the shape of its primal.
    """
    from . import ops

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
        ops.zeros_like(o)
        if o._track is None or level not in o._track.tangents
        else o._track.tangents[level]
        for o in outputs
    ]
    plain = [_below(o, level) for o in outputs]
    if isinstance(value, Tensor):
        return plain[0], derivatives[0]
    return tuple(plain), tuple(derivatives)
