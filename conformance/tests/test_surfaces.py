"""The parts ``surface.*`` and the properties `users` and `aliasing`, held by planted faults."""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _dlpack, _state
from tensorbus._run import Launch
from tensorbus._spec import Spec
from tensorbus._tensor import Tensor
from tensorbus.ops import _elementwise, conversion, indexing, inplace
from tensorbus_backends.contract import Buffer
from tensorbus_conformance.faults.base import FaultyDevice, Planted
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.layouts import place
from tensorbus_conformance.judge.parts import PARTS, load
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced

from . import healthy

load()
SURFACES = [name for name in PARTS if name.startswith("surface.")]
Patch = pytest.MonkeyPatch


def run(op: str, name: str = "users", wrap: Any = None, dtype: str = "float32") -> Outcome:
    item = Item(op, "cpu", dtype, "portable")
    session = Session(item, fenced(tb.get_device("cpu").backend, wrap), "smoke", 0)
    return judge(session, name)


@pytest.mark.parametrize("name", SURFACES)
def test_a_surface_passes_with_and_without_fences(name: str) -> None:
    mine = [c for c in healthy.cells("surface", "cpu") if c["op"] == name]
    assert {c["property"] for c in mine} == {"users", "fenced"}
    for cell in mine:
        assert cell["state"] == "pass", cell["message"]
        assert cell["decided"] > 100


@pytest.mark.parametrize("op", ["add", "matmul", "where", "take", "reshape", "random.uniform"])
def test_ops_pass_without_fences_and_with_shared_memory(op: str) -> None:
    for name in ("users", "aliasing") if not op.startswith("random") else ("users",):
        outcome = run(op, name)
        assert outcome.state == "pass", outcome.message
        assert outcome.decided > 0


def _offset(p: Patch) -> None:
    layout = indexing._slice_layout

    def wrong(spec: Spec, items: Any) -> Any:
        shape, strides, offset = layout(spec, items)
        return shape, strides, offset - 1 if offset > 2 else offset

    p.setattr(indexing._slice, "layout", wrong)


def _neighbour(p: Patch) -> None:
    write = indexing.write_into

    def wrong(target: Tensor, value: Tensor) -> None:
        write(target, value)
        end = (
            target._offset
            + 1
            + sum(max(0, s * (n - 1)) for s, n in zip(target.strides, target.shape, strict=True))
        )
        if target.size and end < target._buffer.nbytes // target.dtype.itemsize:
            one = Spec.of(target.device, target.dtype, ())
            from_ = Tensor(target._buffer, one, end - 1)
            write(Tensor(target._buffer, one, end), from_)

    p.setattr(indexing, "write_into", wrong)


def _elsewhere(p: Patch) -> None:
    def wrong(target: Tensor, value: Tensor) -> Tensor:
        inplace.check_writable(target)
        return value

    p.setattr(tb.ops, "assign", wrong)


def _overlap(p: Patch) -> None:
    p.setattr(inplace, "_copy", lambda value: value)


def _stale(p: Patch) -> None:
    add, known = Tensor.__add__, {}

    def wrong(self: Tensor, other: Any) -> Any:
        if not isinstance(other, Tensor) or self._track or other._track:
            return add(self, other)
        key = (self._spec, other._spec)
        a, b = known.setdefault(key, (self._offset, other._offset))
        return add(Tensor(self._buffer, self._spec, a), Tensor(other._buffer, other._spec, b))

    p.setattr(Tensor, "__add__", wrong)


def _first(p: Patch) -> None:
    item = Tensor.item
    p.setattr(Tensor, "item", lambda x: item(Tensor(x._buffer, x._spec, 0)))


def _dense(p: Patch) -> None:
    move = conversion.to_device

    def wrong(x: Tensor, device: Any, /, *, stream: Any = None) -> Tensor:
        if tb.get_device(device) is x.device or not x.size:
            return move(x, device, stream=stream)
        room = x._buffer.nbytes // x.dtype.itemsize
        start = min(x._offset, room - x.size)
        if start < 0:
            return move(x, device, stream=stream)
        return move(Tensor(x._buffer, Spec.of(x.device, x.dtype, x.shape), start, x._track), device)

    p.setattr(tb.ops, "to_device", wrong)


def _export(p: Patch) -> None:
    capsule = _dlpack._capsule
    p.setattr(_dlpack, "_capsule", lambda x, *rest: capsule(Tensor(x._buffer, x._spec, 0), *rest))


def _forgotten(p: Patch) -> None:
    """Exported memory is not kept alive."""
    capsule = _dlpack._capsule

    def wrong(x: Tensor, *rest: Any) -> Any:
        made = capsule(x, *rest)
        address, kept = list(_dlpack._exported.items())[-1]
        _dlpack._exported[address] = kept[:3]
        return made

    p.setattr(_dlpack, "_capsule", wrong)


def _untraced(p: Patch) -> None:
    p.setattr(_state, "_looked_into", lambda plans, trace: plans)


def _swapped(p: Patch) -> None:
    p.setattr(Tensor, "__rsub__", lambda x, other: x - other)


def _zeros(p: Patch) -> None:
    """0.0 and -0.0 are taken for one number."""
    make, known = _elementwise._partner, {}

    def wrong(op: Any, x: Tensor, value: Any) -> Tensor:
        key = (x.device, x.dtype, value)
        if key not in known:
            known[key] = make(op, x, value)
        return known[key]

    def numbered(op: Any, x: Tensor, value: Any, first: bool) -> Tensor | None:
        return word(op, x, value if value or isinstance(value, int) else 0.0, first)

    word = _elementwise._with_number
    p.setattr(_elementwise, "_partner", wrong)
    p.setattr(_elementwise, "_with_number", numbered)


def _blind(p: Patch) -> None:
    """Changes in place are not counted."""
    p.setattr(inplace, "bump", lambda tensor: None)


def _leaking(p: Patch) -> None:
    """Gradient mode is not restored when a block ends."""
    leave = _state._leave
    p.setattr(_state, "_leave", lambda block: None if block.field == "grad" else leave(block))


def _lasting(p: Patch) -> None:
    """A block that ended in another thread goes on where it began."""
    p.setattr(_state, "_spoil", lambda record: None)


def _restoring(p: Patch) -> None:
    """A block that ends brings back what held before it, whatever has ended since."""
    p.setattr(_state, "_without", lambda now, block: None)


def _square(p: Patch) -> None:
    multiply = tb.FUNCTIONS["multiply"]

    def wrong(a: Any, b: Any, /) -> Tensor:
        out: Tensor = multiply.call(a, b)
        if a is b and out.size:
            inplace.write_into(a, out)
            return Tensor(a._buffer, out._spec, a._offset)
        return out

    p.setitem(tb.FUNCTIONS, "multiply", replace(multiply, call=wrong))


def _one_offset(p: Patch) -> None:
    bind = Launch.bind

    def wrong(self: Launch, offsets: tuple[int, ...]) -> Callable[..., None]:
        # Only neighbours, so that no fence is touched, which would end the process.
        if len(offsets) == 3 and abs(offsets[0] - offsets[1]) < 4:
            offsets = (min(offsets[:2]), min(offsets[:2]), offsets[2])
        return bind(self, offsets)

    p.setattr(Launch, "bind", wrong)


@pytest.mark.parametrize(
    ("op", "name", "fault"),
    [
        ("surface.getitem", "users", _offset),
        ("surface.setitem", "users", _neighbour),
        ("surface.setitem", "users", _overlap),
        ("surface.inplace", "users", _elsewhere),
        ("surface.operators", "users", _stale),
        ("surface.operators", "users", _swapped),
        ("surface.operators", "users", _zeros),
        ("surface.operators", "fenced", _one_offset),
        ("surface.host", "users", _first),
        ("surface.transfer", "users", _dense),
        ("surface.dlpack", "users", _export),
        ("surface.dlpack", "users", _forgotten),
        ("surface.state", "users", _untraced),
        ("surface.state", "users", _leaking),
        ("surface.state", "users", _lasting),
        ("surface.state", "users", _restoring),
        ("surface.saved", "users", _blind),
        ("multiply", "aliasing", _square),
        ("subtract", "aliasing", _one_offset),
    ],
)
def test_a_planted_fault_is_seen(
    op: str, name: str, fault: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        fault(patch)
        # What a fault leaves set ends with a context of its own.
        outcome = contextvars.copy_context().run(run, op, name)
    assert outcome.state in ("fail", "error"), f"{fault.__name__} passed"
    assert outcome.message


class _InUse(FaultyDevice):
    """Hands out, every ninth time, a block that is in use."""

    def __init__(self, real: Any) -> None:
        super().__init__(real, Planted())
        self.blocks: dict[int, list[weakref.ref[Buffer]]] = {}
        self.count = 0

    def allocate(self, nbytes: int) -> Buffer:
        self.count += 1
        known = self.blocks.setdefault(nbytes, [])
        used = [block for r in known if (block := r()) is not None]
        if nbytes and self.count % 9 == 0 and used:
            return used[0]  # the one that has been in use for longest
        made = self.real.allocate(nbytes)
        known.append(weakref.ref(made))
        return made


@pytest.mark.parametrize("op", ["add", "exp", "sum", "var", "concat", "random.uniform"])
def test_a_block_in_use_is_seen(op: str) -> None:
    outcome = run(op, "users", _InUse)
    assert outcome.state in ("fail", "error"), "a block in use passed"


def test_every_op_that_gives_a_view_says_so() -> None:
    from tensorbus_conformance.oracle import REFERENCES

    device = tb.get_device("cpu")
    x, _ = place(device, np.arange(6, dtype=np.float32).reshape(2, 3))
    for op, options in (("reshape", {"shape": (6,)}), ("flip", {}), ("squeeze", {"axis": ()})):
        assert REFERENCES[op].view
        assert tb.FUNCTIONS[op].call(x, **options)._buffer is x._buffer
    assert not REFERENCES["add"].view
