"""The parts ``surface.capsule`` and ``surface.device``, held by planted faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorbus as tb
from tensorbus import _devices, _dlpack, _layout, _spec
from tensorbus._devices import Device
from tensorbus._spec import Spec
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.parts import load
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced
from tensorbus_conformance.judge.surfaces import capsules

load()
Patch = pytest.MonkeyPatch


def _run(op: str, name: str = "users") -> Outcome:
    item = Item(op, "cpu", "float32", "portable")
    return judge(Session(item, fenced(tb.get_device("cpu").backend), "smoke", 0), name)


@pytest.mark.parametrize("op", ["surface.capsule", "surface.device"])
@pytest.mark.parametrize("name", ["users", "fenced"])
def test_the_healthy_library_passes(op: str, name: str) -> None:
    outcome = _run(op, name)
    assert outcome.state == "pass", outcome.message
    assert outcome.decided > 3000


def _early(p: Patch) -> None:
    p.setattr(_dlpack._Owner, "__del__", lambda self: None)


def _twice(p: Patch) -> None:
    give = _dlpack._give_back

    def again(managed: Any) -> None:
        give(managed)
        give(managed)

    p.setattr(_dlpack, "_give_back", again)


def _fields(**values: Any) -> Callable[[Patch], None]:
    def plant(p: Patch) -> None:
        for name, value in values.items():
            p.setattr(_dlpack, name, value)

    return plant


def _no_stream(p: Patch) -> None:
    p.setattr(_dlpack, "_check_stream", lambda stream, device: None)


def _not_waited(p: Patch) -> None:
    p.setattr(Device, "synchronize", lambda self: None)


def _no_sweep(p: Patch) -> None:
    p.setattr(_dlpack, "_sweep", lambda: None)


def _whole(p: Patch) -> None:
    made = _dlpack._capsule

    def wrong(x: Any, place: Any, versioned: bool, flags: int) -> Any:
        return made(tb.Tensor(x._buffer, x._spec), place, versioned, flags)

    p.setattr(_dlpack, "_capsule", wrong)


@pytest.mark.parametrize(
    "plant",
    [
        _early,
        _twice,
        _fields(_VERSION=(2, 0)),
        _fields(_COPIED=4),
        _fields(_READ_ONLY=4),
        _fields(_DEFAULT_STREAM={2: 2, 10: 0}),
        _fields(_DEFAULT_STREAM={2: 1, 10: 1}),
        _fields(METAL=9),
        _no_stream,
        _not_waited,
        _no_sweep,
        _whole,
    ],
)
def test_a_fault_of_dlpack_is_seen(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    monkeypatch.setattr(capsules, "_PATIENCE", 0.05)
    plant(monkeypatch)
    assert _run("surface.capsule").state in ("fail", "error")


def _forgotten(p: Patch) -> None:
    found = _devices.registry

    class Forgetful(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return default

    p.setattr(_devices, "_open", Forgetful(_devices._open))
    assert found is _devices.registry


def _all_equal(p: Patch) -> None:
    p.setattr(Device, "__eq__", lambda self, other: isinstance(other, str) or self is other)


def _always_compiled(p: Patch) -> None:
    def kernel(self: Device, spec: Any) -> Any:
        (found,) = self.backend.compile([spec])
        return found

    p.setattr(Device, "kernel", kernel)


class _Never(dict[Any, Any]):
    """A table that finds nothing."""

    def get(self, key: Any, default: Any = None) -> Any:
        return None


def _own_specs(p: Patch) -> None:
    def _made(device: Any, dtype: Any, shape: Any, strides: Any = None) -> Any:
        return _spec.Spec.build(device, dtype, *_spec._canonical(shape, strides))

    p.setattr(_spec.Spec, "of", staticmethod(_made))
    p.setattr(_spec, "_specs", _Never())


def _dense(p: Patch) -> None:
    from tensorbus.ops import _elementwise

    monkey = _spec.contiguous_strides
    p.setattr(_layout, "permuted_strides", lambda shape, inputs: monkey(shape))
    p.setattr(_elementwise, "permuted_strides", lambda shape, inputs: monkey(shape))


@pytest.mark.parametrize("plant", [_forgotten, _all_equal, _always_compiled, _own_specs, _dense])
def test_a_fault_of_devices_is_seen(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    from tensorbus._state import forget_plans

    forget_plans()
    plant(monkeypatch)
    try:
        assert _run("surface.device").state in ("fail", "error")
    finally:
        monkeypatch.undo()
        forget_plans()
        assert Spec.of(tb.get_device("cpu"), tb.float32, (2,)) is not None
