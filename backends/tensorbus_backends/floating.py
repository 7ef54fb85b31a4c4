"""The floating-point modes of the calling thread, and doing without those that others set.

Libraries set a thread to flush subnormal numbers (to zero as results, as operands, or both) or to
round in another way than to nearest.  Python and NumPy then compute other bits, also where they
convert and print numbers.  What this library computes on the host, it computes in the default modes
of IEEE 754, and leaves the thread's own as they were.
"""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

from .contract import BackendError

__all__ = ["DefaultArithmetic", "in_default_arithmetic", "usual"]

F = TypeVar("F", bound=Callable[..., Any])


def _double(bits: int) -> float:
    """A float64 from its bits: literals are read by arithmetic, which the modes change."""
    return cast(float, struct.unpack("<d", struct.pack("<Q", bits))[0])


_ZERO, _ONE = _double(0), _double(0x3FF << 52)
_LITTLE = _double((0x3FF - 60) << 52)  # 2^-60
_SUBNORMAL = _double(1)
_LEAST, _NEXT = _double(1 << 52), _double((1 << 52) + 1)  # normal; they differ by a subnormal


def usual() -> bool:
    """Whether this thread rounds to nearest and keeps subnormal operands and results."""
    return (
        _ONE + _LITTLE == _ONE  # not upwards
        and _ONE - _LITTLE == _ONE  # not downwards, nor to zero
        and _SUBNORMAL != _ZERO
        and _NEXT - _LEAST != _ZERO
    )


@functools.cache
def _library() -> tuple[Any, Any, Any]:
    """C's ``fegetenv`` and ``fesetenv``, and its default environment."""
    import ctypes
    import ctypes.util

    libm = ctypes.CDLL(ctypes.util.find_library("m") if sys.platform != "darwin" else None)
    if sys.platform == "darwin":
        default = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(libm, "_FE_DFL_ENV")))
    else:
        default = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl
    return libm.fegetenv, libm.fesetenv, default


def _set_default() -> Any:
    """Set the default modes; what was set before, for `_put_back`."""
    import ctypes

    try:
        get, set_, default = _library()
        kept = ctypes.create_string_buffer(512)  # more than any fenv_t
        get(kept)
        set_(default)
    except (OSError, AttributeError, ValueError) as error:
        raise BackendError(_CANNOT) from error
    if not usual():
        set_(kept)
        raise BackendError(_CANNOT)
    return kept


_CANNOT = (
    "this thread flushes subnormal numbers or does not round to nearest, and this system offers no "
    "way to compute otherwise for a while; switch it off (torch.set_flush_denormal(False), C's "
    "fesetround(FE_TONEAREST))"
)


class DefaultArithmetic:
    """The default modes inside the block; cheap where they hold anyway.

    Raises:
        BackendError: They do not, and the system cannot set them.
    """

    __slots__ = ("_kept",)

    def __enter__(self) -> None:
        self._kept = None if usual() else _set_default()

    def __exit__(self, *exception: object) -> None:
        if self._kept is not None:
            _library()[1](self._kept)


def in_default_arithmetic(call: F) -> F:
    """`call`, whatever the modes of the thread that calls it."""

    @functools.wraps(call)
    def outer(*args: Any, **options: Any) -> Any:
        if usual():
            return call(*args, **options)
        with DefaultArithmetic():
            return call(*args, **options)

    return cast(F, outer)
