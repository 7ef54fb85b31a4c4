"""Faults of the dispatcher that calls by single samples do not show; each is planted and seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import tensorbus as tb
from tensorbus import _autograd, _devices, _fallback, _layout, _state
from tensorbus._recent import Recent
from tensorbus._tensor import Tensor
from tensorbus.ops import indexing, sorting
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Buffer, Device
from tensorbus_conformance.judge.guard import Guarded
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.parts import load
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced

load()
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def fresh_plans() -> Iterator[None]:
    yield
    _state.forget_plans()


def verdict(op: str, name: str, level: str = "standard") -> Outcome:
    item = Item(op, "cpu", "float32", "portable")
    return judge(Session(item, fenced(tb.get_device("cpu").backend), level, 0), name)


def _function(p: Patch, name: str, change: Callable[..., Any]) -> None:
    made = tb.FUNCTIONS[name]
    p.setitem(tb.FUNCTIONS, name, replace(made, call=change(made.call)))


def _from_the_operand(p: Patch) -> None:
    """Several negative axes count from the operand's rank."""

    def change(call: Any) -> Any:
        def expand_dims(x: Tensor, /, *, axis: int | Sequence[int] = 0) -> Tensor:
            if isinstance(axis, Sequence) and sum(a < 0 for a in axis) > 1:
                axis = [a + x.ndim if -x.ndim <= a < 0 else a for a in axis]
            out: Tensor = call(x, axis=axis)
            return out

        return expand_dims

    _function(p, "expand_dims", change)


def _minus_rank(p: Patch) -> None:
    """Two axes, the second of them -ndim, are taken for one."""

    def change(call: Any) -> Any:
        def flip(x: Tensor, /, *, axis: int | Sequence[int] | None = None) -> Tensor:
            if isinstance(axis, Sequence) and len(axis) == 2 and axis[1] == -x.ndim:
                axis = axis[0]
            out: Tensor = call(x, axis=axis)
            return out

        return flip

    _function(p, "flip", change)


def _one_gradient(p: Patch) -> None:
    """Leaves keep what the rules give them, also if another leaf has it."""
    p.setattr(_autograd, "_own", lambda g, taken: g)


def _outer_too(p: Patch) -> None:
    """A tensor outside a function under vjp counts as its operand."""
    positive = tb.ops.positive
    p.setattr(tb.ops, "positive", lambda x: x if x.is_leaf and x.requires_grad else positive(x))


def _kept_over_settings(p: Patch) -> None:
    """A plan serves under both settings."""

    one: Recent[Any, Any] = Recent(64)
    p.setattr(_state, "_table", lambda reproducible, policy: one)


def _other_shape(p: Patch) -> None:
    """Native kernels are offered a result of the first operand's shape."""
    p.setattr(
        sorting._SearchSorted, "infer", lambda self, specs, options: [(dt.int64, specs[0].shape)]
    )


def _asked_again(p: Patch) -> None:
    p.setattr(tb, "devices", lambda refresh=True: _devices.registry.devices(refresh))


def _opens_others(p: Patch) -> None:
    """Of another library's memory the owner is sought among devices of any number."""

    def sharing(kind: int, number: int, target: Any = None) -> Any:
        for line in _devices.registry.devices():
            one = _devices.get_device(line.name)
            if one.backend.dlpack_type == kind:
                return one
        return None

    p.setattr(_devices, "sharing", sharing)


def _exchanged(p: Patch) -> None:
    check: Any = _autograd._check_history
    p.setattr(_autograd, "_check_history", lambda op, k, t: check(k, op, t))


def _untold(p: Patch) -> None:
    """A refusal names the function alone."""

    def change(call: Any) -> Any:
        def tril(x: Tensor, /, *, k: int = 0) -> Tensor:
            try:
                out: Tensor = call(x, k=k)
            except TypeError:
                raise TypeError("tril: this is no such thing") from None
            return out

        return tril

    _function(p, "tril", change)


def _modes_exchanged(p: Patch) -> None:
    p.setattr(_autograd, "enable_grad", tb.no_grad)
    p.setattr(_autograd, "no_grad", tb.enable_grad)


def _kept_tangent(p: Patch) -> None:
    """What was overwritten keeps its tangent where the value has none."""
    rule: Any = indexing._replace.jvp
    p.setattr(indexing._replace, "jvp", lambda c, t: t[0] if t[1] is None else rule(c, t))


def _in_c_order(p: Patch) -> None:
    p.setattr(_layout, "_memory_order", lambda shape, outputs: list(range(len(shape))))


def _contiguous(p: Patch) -> None:
    astype = tb.astype
    p.setattr(tb, "astype", lambda x, d, **options: tb.ops.contiguous(astype(x, d, **options)))


def _laid_out(p: Patch) -> None:
    def change(call: Any) -> Any:
        return lambda x, d, /, **options: tb.ops.contiguous(call(x, d, **options))

    _function(p, "astype", change)


def _one_by_one(p: Patch) -> None:
    """Each name that is not known yet gives another object over the same device."""

    def get_device(name: Any = None) -> tb.Device:
        if not isinstance(name, str):
            return named(name)
        if name not in _devices._open:
            _devices._open[name] = tb.Device(named(name).backend)
        return _devices._open[name]

    named = _devices.get_device
    p.setattr(tb, "get_device", get_device)


def _silent(p: Patch) -> None:
    """A call that another device serves is not told of."""
    p.setattr(_fallback.warnings, "warn", lambda *arguments, **options: None)


@pytest.mark.parametrize(
    ("op", "name", "fault"),
    [
        ("expand_dims", "users", _from_the_operand),
        ("flip", "users", _minus_rank),
        ("add", "autograd", _one_gradient),
        ("multiply", "autograd", _outer_too),
        ("surface.state", "users", _kept_over_settings),
        ("searchsorted", "users", _other_shape),
        ("surface.sharing", "users", _asked_again),
        ("surface.sharing", "users", _opens_others),
        ("surface.saved", "users", _exchanged),
        ("astype", "layouts", _laid_out),
        ("surface.lacking", "users", _silent),
        ("tril", "errors", _untold),
        ("surface.engine", "users", _modes_exchanged),
        ("surface.setitem", "users", _kept_tangent),
        ("surface.device", "users", _in_c_order),
        ("surface.device", "users", _contiguous),
        ("surface.device", "users", _one_by_one),
    ],
)
def test_a_fault_is_seen(op: str, name: str, fault: Any, monkeypatch: Patch) -> None:
    fault(monkeypatch)
    assert verdict(op, name).state != "pass"


@pytest.mark.parametrize("op", ["expand_dims", "flip", "searchsorted"])
def test_sound_calls_pass(op: str) -> None:
    outcome = verdict(op, "users")
    assert outcome.state == "pass", outcome.message


class _Rounded(Guarded):
    """Copies into the rest of a block are let through."""

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        past = offset + source.nbytes - target.nbytes
        if past > 0 and offset >= 0 and offset + source.nbytes <= -(-target.nbytes // 128) * 128:
            source = source.cast("B")[: source.nbytes - past]
        if offset <= target.nbytes:
            self.real.copy_in(target, offset, source)
        else:
            super().copy_in(target, offset, source)


def test_a_copy_into_the_rest_of_a_block_is_seen() -> None:
    real: Device = tb.get_device("cpu").backend
    item = Item("driver.errors", "cpu", "uint8", "portable")
    for backend, state in ((real, "pass"), (_Plain(real), "fail")):
        device = fenced(real)
        session = Session(item, device, "smoke", 0)
        session.guard.real = backend
        assert judge(session, "ranges").state == state


class _Plain(_Rounded):
    """Without fences."""

    def allocate(self, nbytes: int) -> Buffer:
        return self.real.allocate(nbytes)

    def compile(self, kernels: Any) -> list[Any]:
        return self.real.compile(kernels)

    def launch(self, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
        self.real.launch(kernel, groups, buffers, meta)

    def part(self, buffer: Buffer, offset: int, nbytes: int) -> Buffer:
        return self.real.part(buffer, offset, nbytes)
