"""Faults where no op goes: words of a launch, rules of rules, memory without bytes, messages."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _autograd
from tensorbus.ops import elementwise_comparison, selection
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.kernels import Matmul, Reduce, Scan
from tensorbus_conformance.judge.driver import small
from tensorbus_conformance.judge.guard import Guarded
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.layouts import host
from tensorbus_conformance.judge.parts import load
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced

load()
Patch = pytest.MonkeyPatch


def verdict(op: str, name: str, wrap: Any = None) -> Outcome:
    item = Item(op, "cpu", "float32", "portable")
    return judge(Session(item, fenced(tb.get_device("cpu").backend, wrap), "standard", 0), name)


def _from_the_start(kernel: Any) -> Callable[[Patch], None]:
    """The interpreter writes results at the beginning of their memory."""

    def fault(p: Patch) -> None:
        interpret = kernel.interpret

        def changed(self: Any, arrays: Any, meta: Any, groups: int) -> None:
            interpret(self, [*arrays[:-1], np.concatenate([arrays[-1][5:]] * 2)], meta, groups)

        p.setattr(kernel, "interpret", changed)

    return fault


def _first_word(p: Patch) -> None:
    """All launch scalars are the first one."""
    interpret = Reduce.interpret

    def changed(self: Reduce, arrays: Any, meta: Any, groups: int) -> None:
        words = meta.copy()
        words[self._out_word + 1 :] = words[self._out_word + 1]
        interpret(self, arrays, words, groups)

    p.setattr(Reduce, "interpret", changed)


def _no_tangent(p: Patch) -> None:
    """A rule inside a pullback forgets the tangent."""
    p.setattr(selection._rows, "jvp", lambda c, t: None)


def _outer_lost(p: Patch) -> None:
    """A rule sees its result without the tangents of outer levels."""
    seen = _autograd._seen
    p.setattr(_autograd, "_seen", lambda out, k, node, done: seen(out, k, node, {}))


def _exchanged(p: Patch) -> None:
    scalars = elementwise_comparison._scalars
    p.setattr(elementwise_comparison, "_scalars", lambda c, a, b: scalars(c, b, a))


def _uncounted(p: Patch) -> None:
    """As many cotangents as there are results are taken, without a word."""
    p.setattr(_autograd, "_cotangents", lambda outputs, g: list(g or [])[: len(outputs)])


def _of_a_line_inside(p: Patch) -> None:
    made = tb.FUNCTIONS["roll"]

    def roll(x: tb.Tensor, /, shift: Any, *, axis: Any = None) -> tb.Tensor:
        try:
            out: tb.Tensor = made.call(x, shift, axis=axis)
        except ValueError:
            raise ValueError("roll: zip() argument 2 is longer than argument 1") from None
        return out

    p.setitem(tb.FUNCTIONS, "roll", replace(made, call=roll))


def _no_key(p: Patch) -> None:
    def refuse(self: Any) -> int:
        raise TypeError("unhashable type: 'dict'")

    p.setattr(Dialect, "__hash__", refuse)


def _any_word(p: Patch) -> None:
    @contextmanager
    def flushing(tiny: Any) -> Iterator[None]:
        yield

    p.setattr(small, "flushing", flushing)


FAULTS: list[tuple[str, str, Callable[[Patch], None]]] = [
    ("driver.skeletons", "launched", _from_the_start(Reduce)),
    ("driver.skeletons", "launched", _from_the_start(Scan)),
    ("driver.skeletons", "launched", _from_the_start(Matmul)),
    ("driver.skeletons", "launched", _first_word),
    ("index_add", "second", _no_tangent),
    ("exp", "second", _outer_lost),
    ("where", "scalars", _exchanged),
    ("surface.engine", "users", _uncounted),
    ("roll", "errors", _of_a_line_inside),
    ("driver.capabilities", "records", _no_key),
    ("driver.language", "small", _any_word),
]


@pytest.mark.parametrize(("op", "name", "fault"), FAULTS)
def test_a_fault_is_seen(op: str, name: str, fault: Any, monkeypatch: Patch) -> None:
    fault(monkeypatch)
    assert verdict(op, name).state in ("fail", "error")


@pytest.mark.parametrize(("op", "name"), sorted({(op, name) for op, name, _ in FAULTS}))
def test_sound_ways_pass(op: str, name: str) -> None:
    outcome = verdict(op, name)
    assert outcome.state == "pass", outcome.message


class _WithoutDtypes(Guarded):
    """A device that declares nothing."""

    def __init__(self, real: Any) -> None:
        super().__init__(real)
        self.capabilities = replace(real.capabilities, dtypes=frozenset())


def test_a_device_without_dtypes_fails_as_a_cell() -> None:
    outcome = verdict("driver.capabilities", "declared", _WithoutDtypes)
    assert outcome.state == "fail"
    assert "no dtype" in outcome.message
    assert verdict("driver.memory", "sizes", _WithoutDtypes).state == "unsupported"


def test_a_write_into_a_buffer_of_no_bytes_is_seen() -> None:
    guard = Guarded(tb.get_device("cpu").backend)
    buffer: Any = guard.allocate(0)
    assert buffer.nbytes == 0
    assert not guard.check()
    ctypes.memset(guard.address(buffer), 1, 4)
    assert guard.check()


def test_a_write_into_a_buffer_that_is_gone_is_seen_at_once_or_by_the_next_one_there() -> None:
    guard = Guarded(tb.get_device("cpu").backend)
    for again in (False, True):
        buffer: Any = guard.allocate(40)
        address = guard.address(buffer)
        del buffer
        assert not guard.check()
        ctypes.memset(address + 36, 1, 4)
        if again:
            assert guard.address(guard.allocate(36)) == address + 4
        assert guard.check() == ["a kernel wrote to a buffer that was gone"]
        assert not guard.check()


def test_memory_is_poison_again_when_its_buffer_is_gone() -> None:
    guard = Guarded(tb.get_device("cpu").backend)
    buffer: Any = guard.allocate(40)
    guard.copy_in(buffer, 0, memoryview(bytes(40)))
    address = guard.address(buffer)
    del buffer
    other: Any = guard.allocate(40)
    assert guard.address(other) == address
    assert ctypes.string_at(address, 40) == b"\xff" * 40
    guard.poison = 0x5A
    assert ctypes.string_at(guard.address(guard.allocate(40)), 40) == b"\x5a" * 40
    assert not guard.check()


def test_a_tensor_of_no_elements_lies_in_its_memory() -> None:
    x = tb.ones((3, 0))
    assert host(x).shape == (3, 0)
    with pytest.raises(AssertionError, match="begins at -1"):
        host(tb.Tensor(x._buffer, x._spec, -1))
