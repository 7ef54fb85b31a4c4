"""Matrix products through the simulated rocBLAS, against exact ones and portable kernels."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import (
    DeviceLostError,
    LaunchError,
    NativeCase,
    OutOfMemoryError,
)
from tensorbus_backends.simulator import Control
from tensorbus_rocm import natives

sys.path.insert(0, str(Path(__file__).parent))
from adding import download, upload

if TYPE_CHECKING:
    from tensorbus_rocm.device import RocmDevice

NUMPY: dict[str, Any] = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


def strides(x: Any) -> tuple[int, ...]:
    return tuple(s // x.itemsize for s in x.strides)


def product(device: RocmDevice, dtype: str, a: Any, b: Any) -> Any:
    """a @ b by the native kernel; a and b may be views of larger arrays."""
    shape = np.matmul(np.empty(a.shape, bool), np.empty(b.shape, bool)).shape
    out = np.empty(shape, NUMPY[dtype])
    case = NativeCase(
        "matmul",
        (dt.by_name(dtype),) * 3,
        (a.shape, b.shape, shape),
        (strides(a), strides(b), strides(out)),
    )
    native = device.natives["matmul"]
    assert native.when(case)
    roots = [x if x.base is None else x.base for x in (a, b)]
    offsets = [
        (x.__array_interface__["data"][0] - r.__array_interface__["data"][0]) // x.itemsize
        for x, r in zip((a, b), roots, strict=True)
    ]
    buffers = [upload(device, r.reshape(-1).view(np.uint8)) for r in roots]
    target = device.allocate(out.nbytes + 64 * out.itemsize)
    native.run(case, [*buffers, target], [*offsets, 64])
    raw = download(device, target, np.uint8, (out.size + 64) * out.itemsize)
    return raw.view(NUMPY[dtype])[64:].reshape(shape)


def operands(dtype: str, *shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(3)
    return [rng.uniform(-1, 1, shape).astype(NUMPY[dtype]) for shape in shapes]


def check(dtype: str, a: Any, b: Any, got: Any) -> None:
    """Within the bound of a sum of k products in any order, and one rounding to the dtype."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    exact, size = a @ b, np.abs(a) @ np.abs(b)
    summing = a.shape[-1] * ROUNDOFF["float64" if dtype == "float64" else "float32"]
    bound = summing * size + ROUNDOFF[dtype] * (1 + summing) * size
    # float64's own reference has the same error again.
    bound += a.shape[-1] * 2.0**-53 * size
    assert (np.abs(np.asarray(got, np.float64) - exact) <= bound).all()


@pytest.mark.parametrize("dtype", sorted(NUMPY))
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_products_of_matrices(
    device: RocmDevice, dtype: str, transposed: tuple[bool, bool]
) -> None:
    flip_a, flip_b = transposed
    a, b = operands(dtype, (7, 5) if flip_a else (5, 7), (3, 7) if flip_b else (7, 3))
    a, b = a.T if flip_a else a, b.T if flip_b else b
    check(dtype, a, b, product(device, dtype, a, b))


def test_parts_of_larger_matrices(device: RocmDevice) -> None:
    a, b = operands("float32", (9, 8), (10, 12))
    a, b = a[2:7, 1:5], b[3:7, 2:11]
    check("float32", a, b, product(device, "float32", a, b))


def test_even_batches_go_in_one_call(device: RocmDevice, control: Control) -> None:
    a, b = operands("float32", (6, 4, 5), (6, 5, 3))
    before = control.count("launch")
    check("float32", a, b, product(device, "float32", a, b))
    assert control.count("launch") == before + 1


def test_uneven_batches_go_one_by_one(device: RocmDevice, control: Control) -> None:
    a, b = operands("float64", (2, 1, 4, 5), (3, 5, 3))
    before = control.count("launch")
    check("float64", a, b, product(device, "float64", a, b))
    assert control.count("launch") == before + 6


def test_what_is_not_taken(device: RocmDevice) -> None:
    when = device.natives["matmul"].when
    shapes, ordinary = ((4, 4),) * 3, ((4, 1),) * 3
    f32, i32 = dt.float32, dt.int32
    assert when(NativeCase("matmul", (f32,) * 3, shapes, ordinary))
    assert not when(NativeCase("matmul", (i32,) * 3, shapes, ordinary))
    assert not when(NativeCase("matmul", (f32,) * 3, shapes, ((8, 2), *ordinary[1:])))


def test_the_library_names_itself(device: RocmDevice) -> None:
    assert device.natives["matmul"].library == "rocBLAS 4.1.0 (simulated)"


def test_without_rocblas_there_are_no_natives(
    device: RocmDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(names: object, symbol: str) -> None:
        raise OSError("librocblas.so: no such file")

    monkeypatch.setattr(natives, "find", absent)
    assert natives.load_rocblas(device.hip) is None


def test_a_product_that_was_only_slower_is_a_product(device: RocmDevice) -> None:
    class Short:
        """Answers as rocBLAS does that computed with less memory than it would have liked."""

        def __getattr__(self, name: str) -> Any:
            real = getattr(lib, name)
            return (lambda *args: real(*args) or 7) if name.startswith("rocblas_gemm") else real

    loaded = natives.load_rocblas(device.hip)
    assert loaded is not None
    lib = loaded.lib
    table = natives.native_table(device._hip_driver, replace(loaded, lib=Short()))
    device.natives = table.table
    a, b = operands("float32", (2, 1, 4, 5), (3, 5, 3))
    check("float32", a, b, product(device, "float32", a, b))


def test_failures_are_the_contracts(device: RocmDevice, control: Control) -> None:
    a, b = operands("float32", (4, 4), (4, 4))
    product(device, "float32", a, b)
    control.arm("launch", 1)
    with pytest.raises(LaunchError, match=r"matrix product of rocBLAS .rocblas_status_internal"):
        product(device, "float32", a, b)
    check("float32", a, b, product(device, "float32", a, b))
    control.set_memory(0)
    with pytest.raises(OutOfMemoryError):
        device.allocate(1 << 30)
    control.set_memory(4 << 30)
    control.arm("lost", 1)
    with pytest.raises(DeviceLostError):
        product(device, "float32", a, b)
