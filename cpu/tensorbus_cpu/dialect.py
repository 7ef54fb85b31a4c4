"""The kernel language in C11 with GNU extensions: regions are loops, for the vectorizer."""

from __future__ import annotations

from tensorbus_backends.dialect import Dialect

__all__ = ["C"]

# No headers: reading two of them takes a fifth of the time of a small kernel's compilation.
_PRELUDE = r"""
#pragma STDC FP_CONTRACT OFF
typedef __INT8_TYPE__ i8; typedef __UINT8_TYPE__ u8;
typedef __INT16_TYPE__ i16; typedef __UINT16_TYPE__ u16;
typedef __INT32_TYPE__ i32; typedef __UINT32_TYPE__ u32;
typedef __INT64_TYPE__ i64; typedef __UINT64_TYPE__ u64;
typedef float f32; typedef double f64; typedef _Bool b8;
#define INLINE static inline __attribute__((always_inline, unused))
#define CONSTANT static const
#define LOCAL __attribute__((aligned(64)))
#define LANES(l, n) for (i32 l = 0; l < (i32)(n); ++l)
#define SYNC
#define M(k) tb_meta[k]
#define CAST(T, S) INLINE T as_##T##_##S(S x) \
    { union { S from; T to; } u; u.from = x; return u.to; }
CAST(u32, f32) CAST(i32, f32) CAST(f32, u32) CAST(f32, i32)
CAST(u64, f64) CAST(i64, f64) CAST(f64, u64) CAST(f64, i64)
#define fma_f32 __builtin_fmaf
#define fma_f64 __builtin_fma
#define sqrt_f32 __builtin_sqrtf
#define sqrt_f64 __builtin_sqrt
#define floor_f32 __builtin_floorf
#define floor_f64 __builtin_floor
#define ceil_f32 __builtin_ceilf
#define ceil_f64 __builtin_ceil
#define trunc_f32 __builtin_truncf
#define trunc_f64 __builtin_trunc
#define rint_f32 __builtin_rintf
#define rint_f64 __builtin_rint
#define abs_f32 __builtin_fabsf
#define abs_f64 __builtin_fabs
INLINE i32 mulhi_i32(i32 a, i32 b) { return (i32)(((i64)a * b) >> 32); }
INLINE u32 mulhi_u32(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }
INLINE i64 mulhi_i64(i64 a, i64 b) { return (i64)(((__int128)a * b) >> 64); }
INLINE u64 mulhi_u64(u64 a, u64 b) { return (u64)(((unsigned __int128)a * b) >> 64); }
"""

C = Dialect(
    name="c",
    prelude=_PRELUDE,
    style="loop",
    kernel="void {name}(void *const *tb_buffers, const i64 *tb_meta, i64 tb_first, i64 tb_end)",
    block=4096,
    # Rows of a column reduction are read in pieces this wide; narrower ones defeat prefetching.
    columns=256,
)
