"""Bad options and operands: one rule for all functions, and messages that name the function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorbus as tb


@pytest.fixture
def x() -> tb.Tensor:
    return tb.ones((2, 5), dtype=tb.float32, device="ref")


@pytest.mark.parametrize("value", ["False", 1, None, 0.0])
def test_a_bool_option_takes_a_bool_only(x: tb.Tensor, value: Any) -> None:
    with pytest.raises(TypeError, match="sum: keepdims is a bool"):
        tb.sum(x, axis=0, keepdims=value)
    assert tb.sum(x, axis=0, keepdims=np.bool_(True)).shape == (1, 5)


@pytest.mark.parametrize("value", ["XY", "", None, 3])
def test_an_unknown_word_is_a_value_error(x: tb.Tensor, value: Any) -> None:
    with pytest.raises(ValueError, match="meshgrid: indexing is 'xy' or 'ij'"):
        tb.meshgrid(x[0], indexing=value)


@pytest.mark.parametrize("shape", ["ab", b"ab", {}, None, (2.0,), ((1,),)])
def test_a_shape_is_made_of_ints(shape: Any) -> None:
    with pytest.raises(TypeError, match="zeros: shape is"):
        tb.zeros(shape, device="ref")


@pytest.mark.parametrize("shape", [(2**62, 4), (2**63,), (-1,), (0, 2**62, 4)])
def test_a_shape_that_cannot_be_is_a_value_error(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"zeros|full"):
        tb.zeros(shape, device="ref")


def test_numbers_are_no_text(x: tb.Tensor) -> None:
    for call in (
        lambda v: tb.nn.elu(x, alpha=v),
        lambda v: tb.nn.layer_norm(x, eps=v),
        lambda v: tb.var(x, correction=v),
        lambda v: tb.nn.dropout(x, v, seed=1),
    ):
        for value in ("1", 1j, None, [0.5]):
            with pytest.raises(TypeError, match=r"elu|layer_norm|var|dropout"):
                call(value)


@pytest.mark.parametrize("index", [2**64 - 1, 2**63, 2**64 - 5])
def test_an_unsigned_index_does_not_wrap(index: int) -> None:
    x = tb.ones((5,), dtype=tb.float32, device="ref")
    i = tb.asarray(np.asarray([index], np.uint64), device="ref")
    for call in (
        lambda: tb.take(x, i),
        lambda: tb.gather(x, i, axis=0),
        lambda: tb.take_along_axis(x, i),
        lambda: tb.nn.embedding(i, tb.reshape(x, (5, 1))),
        lambda: tb.index_add(x, i, x[:1], axis=0),
        lambda: tb.scatter(x, i, x[:1], axis=0),
    ):
        with pytest.raises(IndexError):
            call()
    assert tb.take(x, tb.asarray(np.asarray([4], np.uint64), device="ref")).item() == 1.0


def test_a_number_that_does_not_fit_names_the_op() -> None:
    x = tb.ones((2,), dtype=tb.uint8, device="ref")
    with pytest.raises(OverflowError, match="add: 300 does not fit uint8"):
        tb.add(x, 300)
    with pytest.raises(TypeError, match="add: a Python bool"):
        tb.add(x, True)


def test_a_missing_operand_is_a_type_error(x: tb.Tensor) -> None:
    none: Any = None
    with pytest.raises(TypeError, match="linear: weight is a NoneType"):
        tb.nn.linear(x, none)
    with pytest.raises(TypeError, match="concat needs a list or tuple"):
        tb.concat(none)


@pytest.mark.parametrize("bad", [(0.0, 1.0, 1e-300), (2**64,)])
def test_a_range_that_is_too_long_is_a_value_error(bad: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="arange: shape"):
        tb.arange(*bad, dtype=tb.float32, device="ref")
