"""``__array_namespace_info__``: what the array API lets libraries ask."""

from __future__ import annotations

from tensorbus_backends.dtypes import ALL, DType
from tensorbus_backends.kernels import DIMS

from ._devices import Device, devices, get_device
from ._promotion import DEFAULT_FLOAT, DEFAULT_INT
from .ops.data_types import isdtype

__all__ = ["ArrayNamespaceInfo", "array_namespace_info"]


class ArrayNamespaceInfo:
    """Capabilities, devices and dtypes, as the array API 2025.12 names them."""

    def capabilities(self) -> dict[str, bool | int | None]:
        """Optional behaviours: masks and data-dependent shapes work.

        More dimensions than said here work as long as neighbours merge, so that kernels see fewer.
        """
        return {
            "boolean indexing": True,
            "data-dependent shapes": True,
            "max dimensions": DIMS + 1,
        }

    def default_device(self) -> Device:
        """Where new tensors go in this thread."""
        return get_device()

    def default_dtypes(self, *, device: str | Device | None = None) -> dict[str, DType]:
        """Dtypes of Python numbers and of indices."""
        get_device(device)
        return {"real floating": DEFAULT_FLOAT, "integral": DEFAULT_INT, "indexing": DEFAULT_INT}

    def dtypes(
        self,
        *,
        device: str | Device | None = None,
        kind: str | tuple[str, ...] | None = None,
    ) -> dict[str, DType]:
        """The dtypes that a device can hold.

        Args:
            device: Name or device; None is the default device.
            kind: As for `isdtype`; None means all.
        """
        known = get_device(device).capabilities.dtypes
        return {d.name: d for d in ALL if d.name in known and (kind is None or isdtype(d, kind))}

    def devices(self) -> list[Device | None]:
        """The devices that are available, opened."""
        return [get_device(d.name) for d in devices() if d.available]


def array_namespace_info() -> ArrayNamespaceInfo:
    """What ``tensorbus.__array_namespace_info__()`` gives."""
    return ArrayNamespaceInfo()
