"""Open sizes: what is computed from them is a formula, what is decided a condition."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import tensorbus as tb
from hypothesis import given, strategies as st
from tensorbus._family import Family
from tensorbus._plan import Plan, Step
from tensorbus._planner import Planner
from tensorbus._sizes import Size, Sizes
from tensorbus._spec import Spec
from tensorbus_backends import dtypes as dt
from tensorbus_backends.kernels.base import bits_of

sizes = st.integers(0, 40)
BINARY = [operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod]
COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[Any, int, int]]:
    """Steps (function, place, place) on a growing list of numbers; comparisons give 0 or 1."""
    steps = draw(st.lists(st.sampled_from([*BINARY, *COMPARISONS]), min_size=1, max_size=12))
    return [
        (f, draw(st.integers(0, 4 + k)), draw(st.integers(0, 4 + k))) for k, f in enumerate(steps)
    ]


def ran(program: list[tuple[Any, int, int]], values: list[Any]) -> list[Any]:
    """All numbers, the first five of which are `values` and two constants."""
    known = [*values, 3, -2]
    for f, a, b in program:
        x, y = known[a], known[b]
        if f in (operator.floordiv, operator.mod) and y == 0:
            known.append(x)
        else:
            made = f(x, y)
            known.append(int(made) if isinstance(made, bool) else made)
    return known


@given(programs(), st.lists(sizes, min_size=3, max_size=3), st.lists(sizes, min_size=3, max_size=3))
def test_a_class_computes_as_integers_do(
    program: list[tuple[Any, int, int]], first: list[int], second: list[int]
) -> None:
    home = Sizes(first)
    made = tuple(ran(program, home.given))
    function = home.function(home.text(made))
    assert list(function(first)) == ran(program, first)
    other = function(second)
    assert other is None or list(other) == ran(program, second)


def test_what_was_decided_holds_for_the_class_alone() -> None:
    home = Sizes([5, 100])
    rows, columns = home.given
    chunks = -(-columns // 64)
    total = rows * columns if chunks > 1 else columns
    function = home.function(home.text((chunks, total)))
    assert function([5, 100]) == (2, 500)
    assert function([7, 129]) == (3, 903)
    assert function([5, 64]) is None


def test_a_size_that_is_used_as_a_plain_number_becomes_a_condition() -> None:
    uses: list[Callable[[Size], object]] = [
        lambda n: list(range(n)),  # type: ignore[arg-type,call-overload]
        int,
        float,
        str,
        lambda n: f"{n:>3}",
        lambda n: [0] * n,  # type: ignore[operator]
    ]
    for use in uses:
        home = Sizes([6])
        (n,) = home.given
        use(n)
        function = home.function("()")
        assert function([6]) == ()
        assert function([7]) is None


def test_a_size_cannot_hide_in_a_key() -> None:
    (n,) = Sizes([6]).given
    with pytest.raises(TypeError, match="unhashable"):
        hash((n, 1))


def test_words_are_computed_for_each_shape() -> None:
    home = Sizes([6])
    (n,) = home.given
    function = home.function(home.text((n.bits(bits_of, dt.float32), n.bit_length())))
    for k in (6, 7, 1 << 20):
        assert function([k]) == (bits_of(k, dt.float32), k.bit_length())


def plans(family: Family, *shapes: tuple[int, ...]) -> list[tuple[Plan, bool]]:
    """The plan of a map that doubles, for each shape, and whether a class gave it."""
    device = tb.get_device("ref")
    out = []
    for shape in shapes:
        specs = [Spec.of(device, dt.float32, shape)]
        written = False

        def make(specs: Any, _: Any, sizes: Any) -> Plan:
            nonlocal written
            written |= sizes is None
            planner = Planner(device, specs, sizes)
            (x,) = planner.operands
            return planner.finish(planner.call(tb.OPS["add"], x, x))

        plan = family.plan(specs, make)
        assert plan is not None
        out.append((plan, not written))
    return out


def test_a_family_serves_new_shapes_by_a_class() -> None:
    made = plans(Family(), *((3, k) for k in range(20, 30)))
    assert [known for _, known in made] == [False] * 5 + [True] * 5
    steps = [p.steps[0] for p, _ in made]
    assert all(isinstance(s, Step) for s in steps)
    assert [s.words[0] for s in steps if isinstance(s, Step)] == [3 * k for k in range(20, 30)]


def test_a_class_does_not_serve_what_it_was_not_made_for() -> None:
    family = Family()
    made = plans(family, *((3, k) for k in range(20, 30)), (0, 5), (1, 1), (3, 30))
    assert [known for _, known in made[10:]] == [False, False, True]
    assert not made[10][0].steps


def test_an_op_that_hides_its_sizes_is_served_shape_by_shape() -> None:
    family = Family()
    device = tb.get_device("ref")

    def make(specs: Any, _: Any, home: Any) -> Plan:
        hash(specs[0].shape)
        planner = Planner(device, specs, home)
        return planner.finish(planner.operands[0])

    for k in range(1, 41):
        plan = family.plan([Spec.of(device, dt.float32, (k,))], make)
        assert plan is not None
        assert plan.results[0].shape == (k,)
    assert family.closed == 4  # tried at the 5th, 10th, 20th and 40th
