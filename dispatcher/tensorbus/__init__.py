"""tensorbus: one tensor API on every device, the same bits on each."""

from tensorbus_backends.floating import DefaultArithmetic as _DefaultArithmetic

# Literals are read, and constants computed, while modules are imported.
with _DefaultArithmetic():
    from tensorbus_backends.contract import (
        BackendError as BackendError,
        CompileError as CompileError,
        DeviceLostError as DeviceLostError,
        DeviceUnavailableError as DeviceUnavailableError,
        LaunchError as LaunchError,
        OutOfMemoryError as OutOfMemoryError,
        UnknownDeviceError as UnknownDeviceError,
        UnsupportedError as UnsupportedError,
    )
    from tensorbus_backends.dtypes import (
        DType as DType,
        bfloat16 as bfloat16,
        bool_ as bool,  # noqa: F401
        float16 as float16,
        float32 as float32,
        float64 as float64,
        int8 as int8,
        int16 as int16,
        int32 as int32,
        int64 as int64,
        uint8 as uint8,
        uint16 as uint16,
        uint32 as uint32,
        uint64 as uint64,
    )

    from . import _methods as _methods
    from ._autograd import backward as backward, grad as grad, jvp as jvp, vjp as vjp
    from ._devices import (
        Device as Device,
        device as device,
        devices as devices,
        get_device as get_device,
    )
    from ._info import array_namespace_info as __array_namespace_info__  # noqa: F401
    from ._op import FUNCTIONS as FUNCTIONS, OPS as OPS, Function as Function, Op as Op
    from ._state import (
        Record as Record,
        Trace as Trace,
        enable_grad as enable_grad,
        fallback_policy as fallback_policy,
        is_grad_enabled as is_grad_enabled,
        no_grad as no_grad,
        reproducible as reproducible,
        trace as trace,
    )
    from ._tensor import Tensor as Tensor
    from .ops import *  # noqa: F403

    from . import linalg as linalg, nn as nn, random as random  # isort: skip

__version__ = "0.1.0"
__array_api_version__ = "2025.12"
__array_api_versions__ = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")
