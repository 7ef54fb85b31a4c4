"""What a kernel body may name."""

from __future__ import annotations

import pytest
from tensorbus_backends import dtypes as dt, ir


def test_leaves_have_to_be_what_the_kernel_is_given() -> None:
    x, p, k = ir.input_(0, dt.float32), ir.param(0, dt.int64), ir.load(1, dt.float32, ir.index())
    body = [x + k, p]
    given = [dt.float32, dt.float32]
    assert ir.validate_leaves(body, given, [dt.int64])
    assert not ir.validate_leaves([x], given)
    with pytest.raises(ir.IRError):
        ir.validate_leaves(body, given, [dt.int32])
    with pytest.raises(ir.IRError):
        ir.validate_leaves(body, [dt.float32, dt.int32], [dt.int64])
    with pytest.raises(ir.IRError):
        ir.validate_leaves(body, [dt.int32, dt.float32], [dt.int64])
    with pytest.raises(ir.IRError):
        ir.validate_leaves(body, given, [dt.int64], allow_index=False)
