"""The kernel language in the C++ of GPU compilers: what CUDA C++ and HIP C++ have in common.

NVRTC and hiprtc know the words of `PRELUDE` without any header.  Left to the plugins is what
differs: ``fma`` and ``sqrt``, how metadata is reached (``M``), and how a grid is numbered.
"""

from __future__ import annotations

__all__ = ["PRELUDE", "prelude"]

PRELUDE = r"""
typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32; typedef double f64; typedef bool b8;
#define INLINE static __device__ __forceinline__
#define CONSTANT static __device__ const
#define LOCAL __shared__
#define LANES(l, n) for (i32 l = (i32)threadIdx.x; l < (i32)(n); l += GROUP)
#define SYNC __syncthreads()
#define as_u32_f32 __float_as_uint
#define as_i32_f32 __float_as_int
#define as_f32_u32 __uint_as_float
#define as_f32_i32 __int_as_float
#define as_u64_f64(x) ((u64)__double_as_longlong(x))
#define as_i64_f64 __double_as_longlong
#define as_f64_u64(x) __longlong_as_double((i64)(x))
#define as_f64_i64 __longlong_as_double
#define floor_f32 floorf
#define ceil_f32 ceilf
#define trunc_f32 truncf
#define rint_f32 rintf
#define abs_f32 fabsf
#define floor_f64 floor
#define ceil_f64 ceil
#define trunc_f64 trunc
#define rint_f64 rint
#define abs_f64 fabs
#define mulhi_i32 __mulhi
#define mulhi_u32 __umulhi
#define mulhi_i64 __mul64hi
#define mulhi_u64 __umul64hi
"""


def prelude(group: int, meta: str, more: str) -> str:
    """The whole prelude of a dialect.

    Args:
        group: Threads of a group, along x; a constant, so that the compiler sees which regions
            take one step.
        meta: Expression for word ``k`` of the metadata (``"tb_meta.v[k]"``).
        more: Definitions of ``fma_f32``, ``fma_f64``, ``sqrt_f32`` and ``sqrt_f64``.
    """
    return f"#define GROUP {group}\n#define M(k) {meta}{PRELUDE}{more}"
