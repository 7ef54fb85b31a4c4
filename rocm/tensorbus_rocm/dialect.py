"""The kernel language in HIP C++: groups are thread blocks, lanes are their threads.

Nothing in it depends on the size of a wave.
"""

from __future__ import annotations

from tensorbus_backends.cplusplus import prelude
from tensorbus_backends.dialect import Dialect

__all__ = ["GROUP", "MOST_THREADS", "hip_dialect"]

GROUP = 128

MOST_THREADS = (1 << 32) - 1
"""Threads of one launch along x (hipModuleLaunchKernel); groups beyond go into another launch."""

# hiprtc 5 makes sqrtf the bare instruction, which may be 1 ulp off, whatever the options say
# (seen in its output for gfx90a).  The square root is that result s or a neighbour of it: with s-
# the lower one, sqrt(a) lies below the middle of s- and s exactly if a <= s- s, because the square
# of the middle exceeds s- s by (ulp / 2)^2, less than what separates a from the next candidate;
# likewise above.  A factor of 2^32 keeps the residuals of small operands from underflowing.
_EXACT = r"""
#define fma_f32 fmaf
#define fma_f64 fma
#define sqrt_f64 sqrt
#define SQRT_INSTRUCTION sqrtf
INLINE f32 sqrt_f32(f32 x) {
    const b8 tiny = x < 0x1p-96f;
    const f32 a = tiny ? x * 0x1p32f : x;
    const f32 s = SQRT_INSTRUCTION(a);
    const f32 below = as_f32_u32(as_u32_f32(s) - 1u), above = as_f32_u32(as_u32_f32(s) + 1u);
    const f32 lower = fma_f32(-below, s, a) <= 0.0f ? below : s;
    const f32 right = fma_f32(-above, s, a) > 0.0f ? above : lower;
    const b8 ordinary = x > 0.0f && x <= 0x1.fffffep127f;
    return ordinary ? (tiny ? right * 0x1p-16f : right) : s;
}
"""


def hip_dialect(group: int = GROUP) -> Dialect:
    """The dialect of every AMD GPU.

    A launch may be one part of a grid: the metadata argument begins with the number of the part's
    first group, one word more than the kernel's own.

    Args:
        group: Threads of a group; results are the same bits for every number.
    """
    return Dialect(
        name=f"hip-{group}",
        prelude=prelude(group, "tb_meta.v[k]", _EXACT),
        kernel=(
            "struct {name}_meta {{ i64 first, v[{words}]; }};\n"
            'extern "C" __global__ void __launch_bounds__(GROUP) {name}({args})'
        ),
        pointer="{const}{type} *__restrict__ {name}",
        meta="const {name}_meta tb_meta",
        group="tb_meta.first + (i64)blockIdx.x",
    )
