"""Planted faults in how calls refuse bad arguments and take Python numbers, each one found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_conformance.judge import errors, properties
from tensorbus_conformance.judge.items import Item, Outcome, dtypes_of
from tensorbus_conformance.judge.session import Session, fenced

Call = Callable[..., Any]


def session(op: str, dtype: str, level: str = "smoke") -> Session:
    device = fenced(tb.get_device("ref").backend)
    return Session(Item(op, "ref", dtype, "portable"), device, level, 0)


def judged(op: str, dtype: str, name: str, level: str = "smoke") -> Outcome:
    return properties.judge(session(op, dtype, level), name)


def is_zero(value: Any) -> bool:
    return isinstance(value, float) and value == 0


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Call], None]:
    """Put ``fault(good, *args, **options)`` in the place of a public op."""

    def put(op: str, fault: Call) -> None:
        function = tb.FUNCTIONS[op]

        @wraps(function.call)
        def call(*args: Any, **options: Any) -> Any:
            return fault(function.call, *args, **options)

        monkeypatch.setitem(tb.FUNCTIONS, op, replace(function, call=call))

    return put


def test_good_ops_pass() -> None:
    for op, dtype in (("subtract", "float32"), ("clip", "int32"), ("where", "bool")):
        for name in ("errors", "promotion", "scalars"):
            outcome = judged(op, dtype, name)
            assert outcome.state == "pass", outcome.message


def test_every_op_has_bad_calls_beyond_a_list_for_a_tensor() -> None:
    for op in tb.FUNCTIONS:
        for dtype in dtypes_of(op, "smoke")[:1]:
            s = session(op, dtype.name)
            with tb.reproducible():
                found = [b.what for b in errors.bad_calls(s, errors._good(s))]
            assert len(found) >= 4, (op, found)


def test_a_reflected_operand_is_found(plant: Any) -> None:
    plant("subtract", lambda f, a, b: f(b, a) if isinstance(a, float) else f(a, b))
    assert judged("subtract", "float32", "scalars").state == "fail"


def test_a_lost_sign_of_zero_is_found(plant: Any) -> None:
    for op in ("copysign", "atan2", "multiply", "divide"):
        plant(op, lambda f, *args: f(*(0.0 if is_zero(v) else v for v in args)))
        assert judged(op, "float32", "scalars").state == "fail", op


def test_a_wrapped_integer_is_found(plant: Any) -> None:
    def wrapped(f: Call, a: Any, b: Any) -> Any:
        return f(*(v % 256 if isinstance(v, int) and v > 255 else v for v in (a, b)))

    plant("add", wrapped)
    assert judged("add", "uint8", "errors").state == "fail"


def test_an_axis_too_low_is_found(plant: Any) -> None:
    def lenient(f: Call, x: Any, /, *, axis: Any = None, **options: Any) -> Any:
        low = isinstance(axis, int) and isinstance(x, tb.Tensor) and axis == -x.ndim - 1
        return f(x, axis=0 if low else axis, **options)

    for op in ("sum", "nn.softmax", "argmax", "cumulative_sum"):
        plant(op, lenient)
        assert judged(op, "float32", "errors").state == "fail", op


def test_an_index_too_low_is_found(plant: Any) -> None:
    def lenient(f: Call, x: Any, i: Any, /, *rest: Any, **options: Any) -> Any:
        if isinstance(x, tb.Tensor) and isinstance(i, tb.Tensor) and x.shape == (5,):
            values = i.numpy()
            if values.dtype == np.int64 and values.shape == (1,) and values[0] == -6:
                i = tb.zeros((1,), dtype=i.dtype, device=i.device)
        return f(x, i, *rest, **options)

    for op in ("take", "gather", "take_along_axis", "scatter", "index_add"):
        plant(op, lenient)
        assert judged(op, "float32", "errors").state == "fail", op


def test_an_empty_operand_that_broadcasts_is_found(plant: Any) -> None:
    def lenient(f: Call, *args: Any) -> Any:
        if any(isinstance(a, tb.Tensor) and a.shape == (0,) for a in args):
            args = tuple(a[:0] if isinstance(a, tb.Tensor) and a.ndim else a for a in args)
        return f(*args)

    for op in ("add", "where", "broadcast_arrays", "hypot"):
        plant(op, lenient)
        assert judged(op, "float32", "errors").state == "fail", op


def test_what_is_kept_of_another_number_is_found(plant: Any) -> None:
    kept: dict[Any, Any] = {}

    def sharing(f: Call, a: Any, b: Any) -> Any:
        if not isinstance(b, tb.Tensor) and not isinstance(b, bool):
            b = kept.setdefault(b, b)  # 0.0, -0.0 and 0 are one key
        return f(a, b)

    plant("copysign", sharing)
    assert judged("copysign", "float32", "scalars").state == "fail"


def test_a_call_that_leaves_its_operand_changed_is_found(plant: Any) -> None:
    def spoiling(f: Call, x: Any, /, **options: Any) -> Any:
        if options.get("axis") == 99:
            x[0] = 9.0
        return f(x, **options)

    plant("sum", spoiling)
    assert "changed" in judged("sum", "float32", "errors").message


def test_a_dtype_pair_converted_wrongly_is_found(plant: Any) -> None:
    def through_int8(f: Call, a: Any, b: Any) -> Any:
        if isinstance(b, tb.Tensor) and b.dtype is tb.uint8:
            b = tb.astype(b, tb.int8)
        return f(a, b)

    plant("add", through_int8)
    assert judged("add", "int32", "promotion", "standard").state == "fail"


def test_a_property_without_a_call_is_vacuous(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged("add", "float32", "guards").state == "pass"  # alone, it makes a call
    monkeypatch.setattr(Session, "cases", lambda self: [])
    assert judged("add", "float32", "guards").state == "vacuous"
    assert judged("add", "float32", "inputs").state == "vacuous"
