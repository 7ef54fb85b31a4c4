"""What calls leave behind for their derivatives: history, tangents, and versions of memory.

Every recorded call is a `Node`; `_autograd` walks them.  Forward mode: tensors carry tangents by
level; a rule for level L sees its operands without the tangents of L, so levels nest without
confusing perturbations.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tensorbus_backends.contract import Buffer
from tensorbus_backends.floating import in_default_arithmetic

from ._state import Policy, settings
from ._tensor import Tensor

if TYPE_CHECKING:
    from ._op import Op
    from ._spec import Spec

__all__ = ["Context", "Node", "Track", "record"]


_sequence = itertools.count()


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


Saved = tuple[Buffer, "Spec", int, Track | None]
"""What a tensor was when it was kept: the fields of `Tensor`, which costs four times as much."""


class Node:
    """One recorded call, or a leaf.

    Attributes:
        seq: Number in the order of recording.
        parents: Track of each operand, as it was when the call was recorded.
        specs: Specs of the outputs.
        leaf: Whether it stands for a tensor whose gradient the user asked for.
        leaf_tensor: That tensor, weakly.
        inputs: Of a call: its operands as they were; None once they are released.
        outputs: Its results, without history; None once they are released.
        options: Its options.
        versions: Of the memory of operands and results; None: nothing had been changed in place
            anywhere.
        policy: The fallback policy of the call: its gradient may fall back as it did.
    """

    __slots__ = (
        "inputs", "leaf", "leaf_tensor", "op", "options", "outputs", "parents", "policy", "seq",
        "specs", "versions",
    )  # fmt: skip
    inputs: list[Saved] | None
    outputs: list[Saved] | None
    options: dict[str, Any]
    versions: list[int] | None

    def __init__(
        self,
        op: Op | None,
        parents: list[Track | None],
        specs: list[Spec],
        leaf: Tensor | None = None,
        policy: Policy = "error",
    ) -> None:
        self.seq = next(_sequence)
        self.policy = policy
        self.op, self.parents, self.specs = op, parents, specs
        self.leaf = leaf is not None
        self.leaf_tensor = None if leaf is None else weakref.ref(leaf)

    def context(self, create: bool) -> Context:
        """What the op's rule needs; with a history of its own if a graph is to be created."""
        assert self.op is not None
        needs = [p is not None for p in self.parents]
        made = Context(self.op.name, self.inputs, self.outputs, self.options, needs, self.versions)
        if create:
            made._node = self
        return made

    def release(self) -> None:
        """Drop the saved tensors."""
        self.inputs = self.outputs = None

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
        inputs: Sequence[Saved] | None,
        outputs: Sequence[Saved] | None,
        options: dict[str, Any],
        needs: Sequence[bool],
        versions: Sequence[int] | None,
    ) -> None:
        self.op, self.options, self.needs = op, options, tuple(needs)
        self._inputs, self._outputs, self._versions = inputs, outputs, versions
        self._node: Node | None = None

    def input(self, k: int) -> Tensor:
        """Operand `k` as it was; RuntimeError if it has been changed in place since."""
        return Tensor(*self._saved(self._inputs, k, k, "operand"))

    def output(self, k: int = 0) -> Tensor:
        """Result `k`; RuntimeError if it has been changed in place since."""
        kept = Tensor(*self._saved(self._outputs, k, len(self._inputs or ()) + k, "result"))
        if self._node is None:
            return kept
        tangents = None if kept._track is None else kept._track.tangents
        track = Track(self._node, k, tangents, version(kept))
        return Tensor(kept._buffer, kept._spec, kept._offset, track)

    def _saved(self, kept: Sequence[Saved] | None, k: int, place: int, what: str) -> Saved:
        if kept is None:
            raise RuntimeError(
                f"the saved values of {self.op} are gone: backward ran through it already; "
                "pass retain_graph=True to the first backward"
            )
        if changes(kept[k][0]) != (0 if self._versions is None else self._versions[place]):
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
        return self._inputs[k][1]

    def count(self) -> int:
        """Number of operands."""
        return len(self.needs)


_versions: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def changes(buffer: Buffer) -> int:
    """How often memory has been changed in place."""
    return _versions.get(buffer, 0) if _versions else 0


def version(tensor: Tensor) -> int:
    """How often the tensor's memory has been changed in place."""
    return changes(tensor._buffer)


def _versions_of(kept: Sequence[Saved]) -> list[int]:
    return [changes(k[0]) for k in kept]


def _parts(t: Tensor) -> Saved:
    return t._buffer, t._spec, t._offset, t._track


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
            node = Node(None, [], [tensor._spec], tensor)
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
        node = Node(op, parents, [o._spec for o in outputs], None, now.policy)
    elif not moving:
        return
    # What an operand's history was now: it may be given another one later.
    saved = [(t._buffer, t._spec, t._offset, t._track) for t in inputs]
    # Outputs are kept without their node: node -> output -> node would be a cycle.
    kept: list[Saved] = []
    if moving:
        _attach_tangents(op, inputs, options, outputs, node)
        kept += [(o._buffer, o._spec, o._offset, _moving(o)) for o in outputs]
    else:
        for k, out in enumerate(outputs):
            kept.append((out._buffer, out._spec, out._offset, None))
            if out._spec.dtype.kind == "f":
                out._track = Track(node, k, None, version(out) if _versions else 0)
    if node is not None:
        node.inputs, node.outputs, node.options = saved, kept, options
        node.versions = _versions_of((*saved, *kept)) if _versions else None


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
        bare = [below(t, level) for t in inputs]
        outs = [_seen(o, k, node, result) for k, o in enumerate(outputs)]
        kept = [_parts(t) for t in (*bare, *outs)]
        versions = _versions_of(kept) if _versions else None
        needs = [t is not None for t in tangents]
        context = Context(op.name, kept[: len(bare)], kept[len(bare) :], options, needs, versions)
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


def below(t: Tensor, level: int) -> Tensor:
    """The tensor as forward level `level` sees it: tangents of outer levels only."""
    if t._track is None or not t._track.tangents:
        return t
    kept = {lv: v for lv, v in t._track.tangents.items() if lv < level}
    node = t._track.node
    track = None
    if kept or node is not None:
        track = Track(node, t._track.index, kept, t._track.version)
    return Tensor(t._buffer, t._spec, t._offset, track)
