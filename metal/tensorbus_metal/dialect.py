"""The kernel language in the Metal Shading Language: groups are threadgroups.

MSL has no float64, and GPUs flush subnormals.  Without the pragma every Apple GPU fuses
``a * b + c``, whatever the compiler's options say.
"""

from __future__ import annotations

from tensorbus_backends.dialect import Dialect

__all__ = ["BUFFERS", "MSL"]

BUFFERS = 30
"""Buffer arguments of a kernel: 31 places, one of which the launch metadata takes."""

_PRELUDE = r"""#include <metal_stdlib>
#pragma METAL fp contract(off)
using namespace metal;
typedef char i8; typedef short i16; typedef int i32; typedef long i64;
typedef uchar u8; typedef ushort u16; typedef uint u32; typedef ulong u64;
typedef float f32; typedef bool b8;
#define half tb_half
#define INLINE static inline __attribute__((unused))
#define CONSTANT constant
#define LOCAL threadgroup
#define HIDDEN_ZERO 0
#define M(k) tb_meta[k]
#define LANES(l, n) for (i32 l = (i32)tb_lane; l < (i32)(n); l += (i32)tb_lanes)
#define SYNC threadgroup_barrier(mem_flags::mem_threadgroup)
#define as_u32_f32(x) as_type<uint>(x)
#define as_i32_f32(x) as_type<int>(x)
#define as_f32_u32(x) as_type<float>(x)
#define as_f32_i32(x) as_type<float>(x)
#define fma_f32(a, b, c) fma(a, b, c)
#define sqrt_f32(x) precise::sqrt(x)
#define floor_f32(x) floor(x)
#define ceil_f32(x) ceil(x)
#define trunc_f32(x) trunc(x)
#define rint_f32(x) rint(x)
#define abs_f32(x) fabs(x)
#define mulhi_i32(a, b) mulhi(a, b)
#define mulhi_u32(a, b) mulhi(a, b)
"""

# The standard library's mulhi is not documented for 64 bits.
_MULHI = r"""
INLINE u64 mulhi_u64(u64 a, u64 b) {
    const u64 a0 = a & 0xffffffffuL, a1 = a >> 32, b0 = b & 0xffffffffuL, b1 = b >> 32;
    const u64 low = a0 * b0, left = a1 * b0 + (low >> 32);
    const u64 right = a0 * b1 + (left & 0xffffffffuL);
    return a1 * b1 + (left >> 32) + (right >> 32);
}
INLINE i64 mulhi_i64(i64 a, i64 b) {
    const u64 high = mulhi_u64((u64)a, (u64)b);
    return (i64)(high - (a < 0 ? (u64)b : 0uL) - (b < 0 ? (u64)a : 0uL));
}
"""

_META = (
    "constant i64 *tb_meta [[buffer({index})]], "
    "uint tb_group [[threadgroup_position_in_grid]], "
    "uint tb_lane [[thread_index_in_threadgroup]], "
    "uint tb_lanes [[threads_per_threadgroup]]"
)

MSL = Dialect(
    name="msl",
    prelude=_PRELUDE + _MULHI,
    kernel="kernel void {name}({args})",
    pointer="device {const}{type} *{name} [[buffer({index})]]",
    meta=_META,
    group="(i64)tb_group",
    fp64=False,
)
"""Metal's dialect."""
