"""How a device spells the kernel language: a table of text, about 40 lines for a new device.

Kernels are generated in a neutral C-like vocabulary.  A dialect's `prelude` must define it:

=====================  ==========================================================================
types                  ``i8 i16 i32 i64 u8 u16 u32 u64 f32`` (and ``f64`` if `fp64`), ``b8`` (bool)
``INLINE``             qualifiers of a helper function
``CONSTANT``           qualifiers of a constant table at file scope
``LOCAL``              qualifiers of memory shared by the lanes of one group
``LANES(l, n)``        head of a region: its block runs for every ``i32 l`` in [0, n), in any order,
                       by the lanes of the group together
``SYNC``               between regions: what lanes wrote to LOCAL is seen by all of them
``as_T_S(x)``          bit cast for ``u32 i32 f32`` and ``u64 i64 f64`` among themselves
``fma_f32 sqrt_f32 floor_f32 ceil_f32 trunc_f32 rint_f32 abs_f32``, and ``_f64`` if `fp64`
``mulhi_i32 mulhi_u32 mulhi_i64 mulhi_u64``
=====================  ==========================================================================

with IEEE 754 results for all of them, no contraction of ``a * b + c``, and correctly rounded ``/``
and ``sqrt``.  A kernel handles one group ``g``; everything else follows from `style`:

* ``"simt"``: the device runs a grid of groups; regions are executed by its threads;
* ``"loop"``: the kernel is a C function over a range of groups; regions are inner loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Dialect"]


@dataclass(frozen=True)
class Dialect:
    """One device family's spelling of the kernel language.

    Attributes:
        name: Part of every kernel's cache key.
        prelude: Text that defines the vocabulary above.
        style: ``"simt"`` or ``"loop"``.
        kernel: Head of a kernel; ``{name}``, ``{args}`` and ``{words}`` are filled in.
        pointer: A buffer argument; ``{const}``, ``{type}`` and ``{name}`` are filled in.
        meta: The last argument, a block of ``{words}`` 64-bit integers reachable as ``M(k)``;
            ``{name}`` is the kernel's.
        group: Expression for the group number (style "simt").
        block: Elements of a row that one group of a map handles.
        columns: Outputs that one group of a column reduction handles.
        serial: Style "simt" with one thread in a group: its regions are loops after all.
        fp64: Whether float64 exists.
        spell: Helper functions (see `clike.HELPERS`) that this device spells better, by name.
        hooks: Text put at ``enter`` and ``leave`` of every kernel (floating-point modes, say).
        rolled: Text before the loops over an operand's dimensions, for compilers that unroll them
            in vain: they take a step or two.
    """

    name: str
    prelude: str
    style: Literal["simt", "loop"] = "simt"
    kernel: str = ""
    pointer: str = ""
    meta: str = ""
    group: str = ""
    block: int = 1024
    columns: int = 32
    serial: bool = False
    fp64: bool = True
    spell: Mapping[str, str] = field(default_factory=dict, hash=False)
    hooks: Mapping[str, str] = field(default_factory=dict, hash=False)
    rolled: str = ""

    @property
    def loops(self) -> bool:
        """Whether a region is a loop, so that state between regions belongs in arrays."""
        return self.serial or self.style == "loop"


LOOP_DEFAULTS = {
    "kernel": "void {name}(void *const *tb_buffers, const i64 *tb_meta, i64 tb_first, i64 tb_end)",
}
