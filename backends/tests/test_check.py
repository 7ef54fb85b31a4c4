"""The kernel that a device must run right sees what it is there to see."""

from __future__ import annotations

import numpy as np
import pytest
from tensorbus_backends import check, interp
from tensorbus_backends.dialect import Dialect

_OPERANDS = {np.float32: (np.float32, 32, 24), np.float64: (np.float64, 64, 53)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("operation", check.OPERATIONS)
def test_one_wrong_bit_is_seen_in_its_own_operation(dtype: type, operation: str) -> None:
    x = check._operands(*_OPERANDS[dtype])
    with np.errstate(all="ignore"):
        got = check._expected(x)
    row = check.OPERATIONS.index(operation)
    place = int(np.flatnonzero(np.isfinite(got[row]) & (got[row] != 0))[-1])
    got[row, place] = np.nextafter(got[row, place], dtype(0))
    wrong = [
        name for name, ok in zip(check.OPERATIONS, check._verdict(x, got), strict=True) if not ok
    ]
    assert operation in wrong


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_contraction_is_seen(dtype: type) -> None:
    x = check._operands(*_OPERANDS[dtype])
    exact = interp.fma64 if dtype is np.float64 else interp.fma32
    with np.errstate(all="ignore"):
        got = check._expected(x)
        got[5] = exact(*x[:3])
    verdict = dict(zip(check.OPERATIONS, check._verdict(x, got), strict=True))
    assert not verdict.pop("mul_add")
    assert all(verdict.values())


def test_a_compiler_has_no_other_use_for_the_product_that_it_may_contract() -> None:
    text = check.Check(False).source(Dialect("plain", "", kernel="void {name}({args})"))
    assert text.count("x[0 * n + o] * x[1 * n + o]") == 1
