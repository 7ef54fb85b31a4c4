"""The GPUs that the driver lists, in its order (CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Entry", "inventory"]


@dataclass(frozen=True)
class Entry:
    """One GPU.

    Attributes:
        ordinal: The driver's number for it.
        product: ``"NVIDIA H100 80GB HBM3"``.
        capability: Compute capability.
        memory: Bytes of memory.
        processors: Multiprocessors.
        max_group: Threads that a group may have.
        shared: Bytes of shared memory that a group may have.
        resident: Threads that a multiprocessor holds at a time.
        address: On the PCI bus.
    """

    ordinal: int
    product: str
    capability: tuple[int, int]
    memory: int
    processors: int
    max_group: int
    shared: int
    resident: int
    address: str

    @property
    def name(self) -> str:
        """Canonical name."""
        return f"cuda:{self.ordinal}"

    @property
    def group(self) -> int:
        """Threads in a group: the fewest that can fill a multiprocessor, of 128 and 256.

        It holds at least 16 groups (CUDA C++ Programming Guide, compute capabilities 5.0 on), and
        the canonical reduction has 128 lanes.
        """
        return 128 if self.resident <= 16 * 128 else 256


def inventory(count: int) -> list[Entry]:
    """Look at `count` devices."""
    import pycuda.driver as cu

    return [_entry(cu, k) for k in range(count)]


def _entry(cu: Any, ordinal: int) -> Entry:
    device, names = cu.Device(ordinal), cu.device_attribute

    def ask(attribute: Any) -> int:
        return int(device.get_attribute(attribute))

    major, minor = device.compute_capability()
    return Entry(
        ordinal=ordinal,
        product=" ".join(str(device.name()).split()),
        capability=(int(major), int(minor)),
        memory=int(device.total_memory()),
        processors=ask(names.MULTIPROCESSOR_COUNT),
        max_group=min(ask(names.MAX_THREADS_PER_BLOCK), ask(names.MAX_BLOCK_DIM_X)),
        shared=ask(names.MAX_SHARED_MEMORY_PER_BLOCK),
        resident=ask(names.MAX_THREADS_PER_MULTIPROCESSOR),
        address=str(device.pci_bus_id()),
    )
