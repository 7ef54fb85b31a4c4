"""The kernel language in CUDA C++: groups are thread blocks, lanes are their threads.

The text includes no header, so NVRTC needs none installed.  Rounding does not depend on options:
every operation that has an intrinsic with a rounding mode is spelled with it where an option could
change it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorbus_backends.cplusplus import prelude
from tensorbus_backends.dialect import Dialect

__all__ = ["METADATA", "Spelling"]

METADATA = "tb_meta"
"""Name of the metadata argument."""

# Intrinsics that name their rounding, which no option changes.
_EXACT = r"""
#define fma_f32 __fmaf_rn
#define fma_f64 __fma_rn
#define sqrt_f32 __fsqrt_rn
#define sqrt_f64 __dsqrt_rn
"""


@dataclass(frozen=True)
class Spelling:
    """What decides the dialect of a device.

    Attributes:
        group: Threads in a group.
        grid_constant: Whether a kernel's arguments can be addressed where they lie (compute
            capability 7.0 on), instead of being copied by each thread that indexes them.
    """

    group: int = 128
    grid_constant: bool = True

    def dialect(self, *, in_memory: bool = False) -> Dialect:
        """The dialect.

        Args:
            in_memory: Take launch metadata from memory, for kernels that have more of it than the
                device takes as arguments.
        """
        head = 'extern "C" __global__ void __launch_bounds__(GROUP) '
        if in_memory:
            meta = f"const i64 *__restrict__ {METADATA}"
            reach = f"{METADATA}[k]"
        else:
            held = "const __grid_constant__" if self.grid_constant else "const"
            meta = f"{held} {{name}}_meta {METADATA}"
            reach = f"{METADATA}.v[k]"
            head = "struct {name}_meta {{ i64 v[{words}]; }};\n" + head
        parts = ["cuda", str(self.group)]
        parts += [] if self.grid_constant else ["copied"]
        parts += ["memory"] if in_memory else []
        return Dialect(
            name="-".join(parts),
            prelude=prelude(self.group, reach, _EXACT),
            kernel=head + "{name}({args})",
            pointer="{const}{type} *__restrict__ {name}",
            meta=meta,
            group="(i64)blockIdx.x",
            # Or a region of GROUP lanes becomes a loop.
            hooks={"enter": "    __builtin_assume(threadIdx.x < GROUP);\n"},
            rolled='_Pragma("unroll 1") ',
        )
