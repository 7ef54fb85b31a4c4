"""The interpreter's fma against the C library's, where ranges and special values meet."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
import pytest
from tensorbus_backends import interp

SPECIAL = {
    np.float32: [0.0, 1.0, 1.5, np.inf, np.nan, 1e-45, 1.1754942e-38, 3.4028235e38, 1e-30, 7e20],
    np.float64: [0.0, 1.0, 1.5, np.inf, np.nan, 5e-324, 2.2e-308, 1.7976931348623157e308, 1e-180],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_triples(dtype: Any) -> None:
    name, number = ("fmaf", ctypes.c_float) if dtype is np.float32 else ("fma", ctypes.c_double)
    exact = getattr(ctypes.CDLL(None), name, None)
    if exact is None:
        pytest.skip("this process has no C library with fma")
    exact.restype, exact.argtypes = number, [number] * 3
    values = [s * v for v in SPECIAL[dtype] for s in (1, -1)]
    triples = np.asarray(list(itertools.product(values, repeat=3)), dtype)
    want = np.asarray([exact(*t) for t in triples.tolist()], dtype)
    calculate = interp.fma32 if dtype is np.float32 else interp.fma64
    with np.errstate(all="ignore"):
        got = calculate(*triples.T)
    bits = "u4" if dtype is np.float32 else "u8"
    same = (got.view(bits) == want.view(bits)) | (np.isnan(got) & np.isnan(want))
    bad = triples[~same]
    assert not len(bad), f"{len(bad)} wrong, first fma{tuple(bad[0])}"
