"""The samples are designed: each due value of each argument occurs, and factors meet in pairs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
import pytest
import tensorbus as tb
from hypothesis import given, settings, strategies as st
from tensorbus_backends import dtypes as dt
from tensorbus_conformance.judge.cases import Case, array_slots, cases, gradient_cases, takes
from tensorbus_conformance.judge.items import oracle_name
from tensorbus_conformance.judge.layouts import host, place
from tensorbus_conformance.oracle import REFERENCES
from tensorbus_conformance.oracle.sampling import arrays, cover

LEFT_OUT = object()
DTYPES = (dt.bool_, dt.uint8, dt.int32, dt.float16, dt.float32)
OPS = sorted(n for n in tb.FUNCTIONS if (o := oracle_name(n)) and REFERENCES[o].samples)


def _bound(name: str, level: str = "standard", seeds: Sequence[int] = (0,)) -> list[dict[str, Any]]:
    """The arguments of every call of an op's sample by name; `LEFT_OUT` where one was not given."""
    signature = inspect.signature(tb.FUNCTIONS[name].call)
    short = oracle_name(name)
    assert short is not None
    found = []
    for dtype, seed in product(DTYPES, seeds):
        if not takes(REFERENCES[short], dtype):
            continue
        for case in cases(short, dtype, level, seed):
            given = signature.bind(*case.args, **case.options).arguments
            found.append({p: given.get(p, LEFT_OUT) for p in signature.parameters} | {name: None})
    return found


def _first_shape(call: dict[str, Any]) -> tuple[int, ...]:
    for value in call.values():
        many = value if isinstance(value, (list, tuple)) else [value]
        for v in many:
            if isinstance(v, np.ndarray):
                return v.shape
    return ()


def _axis_due(call: dict[str, Any], axis: int) -> set[str]:
    # expand_dims names an axis of its result.
    rank = len(_first_shape(call)) + ("expand_dims" in call)
    return {
        name
        for name, value in (("first", 0), ("last", rank - 1), ("-1", -1), ("-ndim", -rank))
        if axis == value and rank
    }


def _kinds_of(value: Any, parameter: str, annotation: Any, call: dict[str, Any]) -> set[str]:
    """Which due values an argument stands for."""
    found = {"left out"} if value is LEFT_OUT else set()
    if value is None:
        return {"None"}
    if isinstance(value, bool):
        return {str(value)}
    if isinstance(value, (int, np.integer)) and "axis" in parameter:
        return _axis_due(call, int(value))
    if isinstance(value, (tuple, list)) and "axis" in parameter:
        return {{0: "()", 1: "one", 2: "two"}.get(len(value), "more")}
    if isinstance(value, (int, np.integer)):
        return (
            {"negative"} if value < 0 else {"0"} if value == 0 else {"1" if value == 1 else "int"}
        )
    if isinstance(value, float):
        if value == 0:
            return {"0"}
        exact = value * 2**10 == round(value * 2**10) if np.isfinite(value) else True
        return {"negative"} if value < 0 else {"exact" if exact else "inexact"}
    if isinstance(value, np.ndarray):
        return {"tensor"}
    if isinstance(value, str):
        return {value}
    return found or {"other"}


def _due(parameter: inspect.Parameter, annotation: Any) -> set[str]:
    """The values that every sample must take, from a parameter's annotation."""
    options = typing.get_args(annotation) or (annotation,)
    if typing.get_origin(annotation) is Literal:
        return set(typing.get_args(annotation))
    due: set[str] = set()
    if parameter.name in ("device", "dtype", "x", "obj", "key", "seed"):
        return due
    has_default = parameter.default is not inspect.Parameter.empty
    if has_default:
        due.add("left out")
    if tb.Tensor in options:  # Python scalars beside tensors are the property `scalars`
        options = tuple(o for o in options if o not in (bool, int, float))
    for option in options:
        if option is bool:
            due |= {"True", "False"}
        elif "axis" in parameter.name and option is int:
            due |= {"first", "last", "-1", "-ndim"}
        elif "axis" in parameter.name and typing.get_origin(option) is Sequence:
            due |= {"()", "one", "two"}
        elif option is type(None) and parameter.name in ("axis", "weight", "bias", "min", "max"):
            due |= {"None"} if parameter.name in ("axis", "min", "max") else set()
        elif option is float:
            due |= {"0", "negative", "inexact"}
        elif option is int and parameter.kind is parameter.KEYWORD_ONLY:
            due |= {"0", "1", "negative"}
        elif option is tb.Tensor and has_default:
            due |= {"tensor"}
    return due


@pytest.mark.parametrize("name", OPS)
def test_each_due_value_of_each_argument_occurs(name: str) -> None:
    short = oracle_name(name)
    assert short is not None
    call = tb.FUNCTIONS[name].call
    hints = typing.get_type_hints(call)
    calls = _bound(name)
    assert calls
    missing = {}
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        due = _due(parameter, hints.get(parameter.name))
        seen = set().union(
            *(
                _kinds_of(c[parameter.name], parameter.name, hints.get(parameter.name), c)
                for c in calls
            )
        )
        excused = {
            k.split(": ")[1] for k in REFERENCES[short].excused if k.startswith(parameter.name)
        }
        assert not excused & seen, f"{excused & seen} of {parameter.name} is excused, but occurs"
        assert excused <= due, f"{excused - due} of {parameter.name} is excused, but is not due"
        if due - seen - excused:
            missing[parameter.name] = due - seen - excused
    assert not missing


def test_exceptions_are_few_and_have_reasons() -> None:
    excused = [(o.name, k, why) for o in REFERENCES.values() for k, why in o.excused.items()]
    assert len(excused) <= 20
    assert all(len(why) > 20 for _, _, why in excused)


def _ranks_and_sizes(found: Sequence[Case]) -> tuple[set[int], set[int]]:
    every = [a for case in found for a in array_slots(case)]
    return {a.ndim for a in every}, {n for a in every for n in a.shape}


@pytest.mark.parametrize("name", ["exp", "add", "sum", "mean", "max", "cumulative_sum", "relu"])
def test_standard_takes_every_rank_and_every_size_around_constants(name: str) -> None:
    ranks, sizes = _ranks_and_sizes(cases(name, dt.float32, "standard", 0))
    assert sizes >= set(arrays.LIMITS)
    assert ranks >= set(range(1, 10))


def test_elementwise_samples_take_all_ranks() -> None:
    assert _ranks_and_sizes(cases("add", dt.float32, "standard", 0))[0] == set(range(10))


def test_layouts_of_two_operands_meet_in_all_pairs_over_the_family() -> None:
    names = list(arrays.LAYOUTS)
    seen = set()
    for op in ("add", "subtract", "multiply", "divide", "pow", "atan2", "hypot", "maximum"):
        for dtype in (dt.float16, dt.float32, dt.float64):
            for case in cases(op, dtype, "standard", 0):
                parts = case.label.split(", ")
                if len(parts) == 3:
                    seen.add((parts[1], parts[2]))
    assert seen >= set(product(names, names))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OPS)
def test_every_seed_gives_a_view_and_a_differentiable_call(name: str, seed: int) -> None:
    short = oracle_name(name)
    assert short is not None
    reference = REFERENCES[short]
    if not takes(reference, dt.float32):
        return
    found = cases(short, dt.float32, "smoke", seed)
    many = [a for case in found for a in array_slots(case)]
    if many and max(a.size for a in many) > 1:
        assert any(not (a.flags.c_contiguous and a.flags.owndata) for a in many)
    if reference.vjp is not None and reference.tensors[1]:
        assert gradient_cases(short, dt.float32, "smoke", seed)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcde"), st.integers(1, 5).map(lambda n: list(range(n))), min_size=2
    ),
    st.integers(0, 2**32 - 1),
)
def test_covering_arrays_hold_all_pairs(factors: dict[str, list[int]], seed: int) -> None:
    rows = cover.pairs(factors, np.random.default_rng(seed))
    for a, b in combinations(factors, 2):
        assert {(r[a], r[b]) for r in rows} == set(product(factors[a], factors[b]))


def test_pairs_that_cannot_be_are_given_up() -> None:
    factors = {"a": [0, 1], "b": [0, 1]}
    rows = cover.pairs(factors, np.random.default_rng(0), lambda r: r["a"] + r["b"] < 2)
    assert {(r["a"], r["b"]) for r in rows} == {(0, 0), (0, 1), (1, 0)}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=5).map(tuple),
    st.sampled_from(sorted(arrays.LAYOUTS)),
    st.integers(0, 1000),
)
def test_layouts_keep_the_elements_and_are_mirrored_on_a_device(
    shape: tuple[int, ...], layout: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    array = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    laid = arrays.laid_out(rng, array, layout)
    assert laid.shape == shape
    if layout not in arrays.SHARING:
        assert np.array_equal(laid, array)
    tensor, seen = place(tb.get_device("ref"), laid)
    assert np.array_equal(host(tensor), seen)
    assert np.array_equal(seen, laid)
    if laid.size and not (laid.flags.c_contiguous and laid.flags.owndata):
        steps = zip(tensor.strides, laid.strides, shape, strict=True)
        assert all(4 * mine == given or n == 1 for mine, given, n in steps)


def _strata(make: Callable[..., Any], dtype: Any) -> set[int]:
    values = make(np.random.default_rng(0), dtype, True)
    finite = np.asarray(values).astype(np.float64)
    return set((np.frexp(finite[finite != 0])[1] - 1).tolist())


def test_every_binade_has_numbers() -> None:
    assert _strata(arrays.binades, np.float32) >= set(range(-149, 128))
    assert _strata(arrays.binades, np.float16) >= set(range(-24, 16))
    assert _strata(arrays.binades, np.float64) >= set(range(-1074, 1024))
