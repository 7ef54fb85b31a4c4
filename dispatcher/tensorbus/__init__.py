"""tensorbus: one tensor API on every device, the same bits on each."""

from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    DeviceLostError,
    DeviceUnavailableError,
    LaunchError,
    OutOfMemoryError,
    UnknownDeviceError,
    UnsupportedError,
)
from tensorbus_backends.dtypes import (
    DType,
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from tensorbus_backends.dtypes import bool_ as bool

from ._autograd import backward, grad, jvp, vjp
from ._devices import Device, device, devices, get_device
from ._info import array_namespace_info as __array_namespace_info__
from ._op import FUNCTIONS, OPS, Function, Op
from ._state import (
    Record,
    Trace,
    enable_grad,
    fallback_policy,
    is_grad_enabled,
    no_grad,
    reproducible,
    trace,
)
from ._tensor import Tensor
from .ops import *  # noqa: F403

from . import linalg, nn, random  # isort: skip

__version__ = "0.1.0"
__array_api_version__ = "2025.12"
__array_api_versions__ = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")
