"""How the perverse device spells the kernel language: C whose lanes run in a shuffled order."""

from tensorbus_backends.clike import helper_text
from tensorbus_backends.dialect import Dialect

__all__ = ["DIALECT", "ORDERS", "RUN"]

ORDERS = 8
"""Orders of a group's threads that one launch uses in turn, one for each region (see LANES)."""

# The first lines forbid contraction, to clang and to gcc, which are told to contract all they may.
# The handlers are called where C leaves the behaviour undefined, and LOCAL keeps old contents.
_PRELUDE = r"""
#pragma STDC FP_CONTRACT OFF
#pragma GCC optimize ("fp-contract=off")
#define INTEGERS(n) typedef __INT##n##_TYPE__ i##n; typedef __UINT##n##_TYPE__ u##n;
INTEGERS(8) INTEGERS(16) INTEGERS(32) INTEGERS(64)
typedef float f32; typedef double f64; typedef _Bool b8;
static volatile int tb_undefined; static u32 tb_turn;
#define ON(name) void __ubsan_handle_##name(void) { tb_undefined = 1; }
ON(float_cast_overflow) ON(shift_out_of_bounds) ON(out_of_bounds) ON(add_overflow)
ON(sub_overflow) ON(mul_overflow) ON(negate_overflow) ON(divrem_overflow)
#define INLINE static inline __attribute__((unused))
#define CONSTANT static const
#define LOCAL static
#define M(k) tb_meta[k]
#define LANES(l, n) \
    for (const i32 *tb_t = tb_orders + tb_size * (i32)(tb_turn++ % 8), *tb_end = tb_t + tb_size; \
         tb_t < tb_end; ++tb_t) \
        for (i32 l = *tb_t; l < (i32)(n); l += tb_size)
#define SYNC
#define CAST(T, S) INLINE T as_##T##_##S(S x) \
    { union { S from; T to; } u; u.from = x; return u.to; }
CAST(u32, f32) CAST(i32, f32) CAST(f32, u32) CAST(f32, i32)
CAST(u64, f64) CAST(i64, f64) CAST(f64, u64) CAST(f64, i64)
#define OTHER_NAN(T, U, flip, quiet) INLINE T nan_##T(T x) \
    { return x == x ? x : as_##T##_##U((as_##U##_##T(x) ^ flip) | quiet); }
OTHER_NAN(f32, u32, 0x80012345u, 0x400000u)
OTHER_NAN(f64, u64, 0x8000000123456789u, 0x8000000000000u)
#define FUNCTION(name) \
    INLINE f32 name##_f32(f32 x) { return nan_f32(__builtin_##name##f(x)); } \
    INLINE f64 name##_f64(f64 x) { return nan_f64(__builtin_##name(x)); }
FUNCTION(sqrt) FUNCTION(floor) FUNCTION(ceil) FUNCTION(trunc) FUNCTION(rint)
#define fma_f32(a, b, c) nan_f32(__builtin_fmaf(a, b, c))
#define fma_f64(a, b, c) nan_f64(__builtin_fma(a, b, c))
#define abs_f32 __builtin_fabsf
#define abs_f64 __builtin_fabs
#define MULHI(T, W, n) INLINE T mulhi_##T(T a, T b) { return (T)(((W)a * b) >> n); }
MULHI(i32, i64, 32) MULHI(u32, u64, 32) MULHI(i64, __int128, 64) MULHI(u64, unsigned __int128, 64)
"""


# A kernel runs in the thread of whoever waits, whose rounding mode is none of its business.
RUN = """
#include <fenv.h>
int tb_run(void **b, const i64 *meta, const i64 *groups, i64 n, const i32 *orders, i64 size) {{
    fenv_t caller;
    fegetenv(&caller);
    fesetenv(FE_DFL_ENV);
    tb_undefined = 0;
    for (i64 k = 0; k < n; ++k) {name}({buffers}, meta, groups[k], orders, (i32)size);
    fesetenv(&caller);
    return tb_undefined;
}}
"""
_NANS = {"f32_to_f16": ("0x7e00u", "0xfd5bu"), "f32_to_bf16": ("0x7fc0u", "0xffd3u")}

DIALECT = Dialect(
    name="perverse",
    prelude=_PRELUDE,
    kernel="static void {name}({args})",
    pointer="{const}{type} *{name}",
    meta="const i64 *tb_meta, i64 tb_group, const i32 *tb_orders, i32 tb_size",
    group="tb_group",
    block=331,
    columns=7,
    spell={
        name: str(helper_text(name, Dialect("", ""))).replace(*nan) for name, nan in _NANS.items()
    },
)
