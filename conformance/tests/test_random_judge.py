"""Random numbers: docs/random.md read again, and faults of streams, words and recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import random as product
from tensorbus._state import forget_plans
from tensorbus_backends import dtypes as dt, ir
from tensorbus_conformance.judge.items import Item, Outcome, dtypes_of, properties
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced
from tensorbus_conformance.oracle import random as oracle

OPS = ("random.uniform", "random.normal", "random.integers", "random.bernoulli",
       "random.permutation", "nn.dropout")  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_plans() -> Iterator[None]:
    yield
    forget_plans()


def _judged(op: str, what: str, dtype: str) -> Outcome:
    item = Item(op, "ref", dtype, "portable")
    return judge(Session(item, fenced(tb.get_device("ref").backend), "smoke", 0), what)


# -- the oracle -----------------------------------------------------------------------------------


def test_words_are_the_papers() -> None:
    for counter, key, words in oracle.KNOWN_ANSWERS[:1]:
        assert oracle.words(key[0] | key[1] << 32, 3)[counter[0]].tolist() == list(words)
    far = oracle.words(7, 2, (1 << 32) - 1)
    assert far[1].tolist() == oracle.philox4x32((0, 1, 0, 0), (7, 0)).tolist()


def test_integers_reach_both_ends() -> None:
    drawn = oracle.integers(3, 4000, np.int8, -128, 128)
    assert drawn.min() == -128
    assert drawn.max() == 127
    whole = oracle.integers(3, 100, np.uint64, 0, 1 << 64)
    assert whole.tolist() == oracle.double(oracle.words(3, 100)).tolist()


def test_uniform_stays_below_its_bound() -> None:
    for kind in oracle.RECIPES["uniform"].dtypes:
        dtype = dt.by_name(kind)
        high = 1 + 2.0 ** (1 - dtype.precision)
        assert set(oracle.uniform(1, 500, dtype.numpy, 1.0, high).astype(np.float64)) == {1.0}
        assert oracle.uniform(1, 500, dtype.numpy, -1.0, 0.0).astype(np.float64).max() < 0


def test_exact_normal_agrees_with_float64() -> None:
    exact = oracle.normal(5, 300, np.float64, 2.0, 3.0)
    w = oracle.words(5, 300)
    u = ((oracle.double(w) >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53
    a = 2 * np.pi * (oracle.double(w, 2).view(np.int64) >> 11) * 2.0**-53
    plain = 2.0 + 3.0 * np.sqrt(-2 * np.log(u)) * np.cos(a)
    assert np.abs(plain - exact.hi).max() < 1e-13
    assert np.abs(plain - exact.hi).max() > 0
    assert exact.bound.max() < 1e-13


def test_items_follow_from_the_record() -> None:
    for op in OPS:
        recipe = oracle.RECIPES[op.rsplit(".", 1)[-1]]
        assert [d.name for d in dtypes_of(op, "standard")] == list(recipe.dtypes)
        for dtype in dtypes_of(op, "standard"):
            names = properties(op, dtype, "portable", "cpu", "standard")
            assert {"values", "streams", "errors", "bits", "guards"} <= set(names)
            assert ("gradient" in names) == (recipe.tensor and dtype.is_float)


# -- planted faults -------------------------------------------------------------------------------


def _split_overlaps(patch: pytest.MonkeyPatch) -> None:
    # The children's words are those of the parent's own elements.
    patch.setattr(product, "_SPLIT", 0)


def _split_from_one(patch: pytest.MonkeyPatch) -> None:
    old = product.Key._derived
    patch.setattr(product.Key, "_derived", lambda k, n, p: old(k, n + 1, p))


def _neighbouring_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        product.Key, "split",
        lambda k, count=2: tuple(product.Key((k.value + i) % 2**64) for i in range(count)),
    )  # fmt: skip


def _fold_in_32_bits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(product.Key, "fold_in", lambda k, d: k._derived(int(d) % 2**32, product._FOLD))


def _words_of(change: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        old = product._words
        patch.setattr(product, "_words", lambda slot: change(old(slot)))

    return plant


def _next_counter(patch: pytest.MonkeyPatch) -> None:
    old = product.philox_expr

    def philox(counter: Any, words: Any) -> Any:
        return old((counter[0] + ir.const(1, dt.uint32), *counter[1:]), words)

    patch.setattr(product, "philox_expr", philox)


def _nine_rounds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(product, "_ROUNDS", 9)


def _value_of(op: str, change: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        made = getattr(product, op)
        patch.setattr(made, "value", change(made.value))

    return plant


def _chance(change: Callable[[Any, Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        old = product.chance
        patch.setattr(product, "chance", lambda word, p: change(old, (word, p)))

    return plant


def _dropout_at(patch: pytest.MonkeyPatch) -> None:
    old = tb.nn.layers.dropped_out
    patch.setattr(tb.nn.layers, "dropped_out", lambda x, p, k: old(x, 0.5 if p == 0.49 else p, k))


def _other_mask_back(patch: pytest.MonkeyPatch) -> None:
    def vjp(c: Any, g: tb.Tensor) -> list[Any]:
        p = c.options["p"]
        return [tb.multiply(g, 1 / (1 - p) if p < 1 else 0.0)]

    patch.setattr(product._dropout, "vjp", vjp)


def _mask_by_memory(patch: pytest.MonkeyPatch) -> None:
    old = tb.nn.layers.dropped_out

    def dropped(x: tb.Tensor, p: float, k: Any) -> tb.Tensor:
        if x.ndim < 2 or x._spec.strides[-1] == 1:
            return old(x, p, k)
        return tb.permute_dims(old(tb.permute_dims(x, (*range(x.ndim),)[::-1]), p, k),
                               (*range(x.ndim),)[::-1])  # fmt: skip

    patch.setattr(tb.nn.layers, "dropped_out", dropped)


def _same_twice(words: Any) -> Any:
    return (words[0], words[1], words[0], words[1])


def _swapped(words: Any) -> Any:
    return (words[1], words[0], words[3], words[2])


def _high(old: Any) -> Any:
    """uniform without its bound: what rounds to `high` stays."""
    return lambda w, dtype, low, span, top: ir.fma(product._fraction(w, dtype), span, low)


def _modulo(old: Any) -> Any:
    def value(words: Any, dtype: Any, low: Any, span: Any) -> Any:
        return old(words, dtype, low, ir.select(span.eq(0), span, span - 1))

    return value


def _never_one(old: Any, given: Any) -> Any:
    return old(*given) & (given[0] < ir.const(0xFF000000, dt.uint32))


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str, str]] = {
    "split streams overlap": (_split_overlaps, "random.uniform", "streams", "float32"),
    "split counts from one": (_split_from_one, "random.bernoulli", "streams", "bool"),
    "keys of a split are neighbours": (_neighbouring_keys, "random.uniform", "streams", "float32"),
    "fold_in drops its upper half": (_fold_in_32_bits, "random.normal", "streams", "float32"),
    "one word for radius and angle": (
        _words_of(_same_twice), "random.normal", "values", "float64"),
    "words in another order": (_words_of(_swapped), "random.uniform", "values", "float32"),
    "integers' words in another order": (
        _words_of(_swapped), "random.integers", "values", "int64"),
    "counters start at one": (_next_counter, "random.permutation", "values", "int64"),
    "nine rounds": (_nine_rounds, "random.normal", "values", "float32"),
    "uniform reaches high": (_value_of("_uniform", _high), "random.uniform", "values", "float32"),
    "integers never reach the last": (
        _value_of("_integers", _modulo), "random.integers", "values", "int32"),
    "p = 1 is not certain": (_chance(_never_one), "random.bernoulli", "values", "bool"),
    "dropout at 0.49 is at 0.5": (_dropout_at, "nn.dropout", "values", "float32"),
    "the gradient has no mask": (_other_mask_back, "nn.dropout", "gradient", "float32"),
    "the mask follows the memory": (_mask_by_memory, "nn.dropout", "layouts", "float32"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, op, what, dtype = FAULTS[name]
    assert _judged(op, what, dtype).state == "pass"
    plant(monkeypatch)
    forget_plans()  # they hold what was computed from the functions
    assert _judged(op, what, dtype).state == "fail"


def test_another_default_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = tb.random.normal
    monkeypatch.setitem(plain.__wrapped__.__kwdefaults__, "mean", -0.0)
    assert "left out" in _judged("random.normal", "values", "float32").message


def test_a_new_public_function_needs_a_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "__all__", [*product.__all__, "shuffle"])
    assert "nobody judges" in _judged("random.uniform", "streams", "float32").message
