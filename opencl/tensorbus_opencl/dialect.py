"""The kernel language in OpenCL C 1.2: groups are work-groups, lanes are their work-items.

On a processor a work-group has one work-item and a region is a loop again: PoCL and Intel's runtime
vectorize such a loop (measured: 2 to 10 times faster than 16 to 256 work-items, which they do not
vectorize across a region), and compile it faster.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorbus_backends.dialect import Dialect

__all__ = ["Spelling"]

_COMMON = r"""
#pragma OPENCL FP_CONTRACT OFF
typedef char i8; typedef short i16; typedef int i32; typedef long i64;
typedef uchar u8; typedef ushort u16; typedef uint u32; typedef ulong u64;
typedef float f32; typedef bool b8;
#define half tb_half
#define INLINE static inline __attribute__((unused))
#define CONSTANT __constant
#define LOCAL __local
#define as_u32_f32 as_uint
#define as_i32_f32 as_int
#define as_f32_u32 as_float
#define as_f32_i32 as_float
#define fma_f32 fma
#define sqrt_f32 sqrt
#define floor_f32 floor
#define ceil_f32 ceil
#define trunc_f32 trunc
#define rint_f32 rint
#define abs_f32 fabs
#define mulhi_i32 mul_hi
#define mulhi_u32 mul_hi
#define mulhi_i64 mul_hi
#define mulhi_u64 mul_hi
"""

_DOUBLE = r"""
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
typedef double f64;
#define as_u64_f64 as_ulong
#define as_i64_f64 as_long
#define as_f64_u64 as_double
#define as_f64_i64 as_double
#define fma_f64 fma
#define sqrt_f64 sqrt
#define floor_f64 floor
#define ceil_f64 ceil
#define trunc_f64 trunc
#define rint_f64 rint
#define abs_f64 fabs
"""

_THREADS = r"""
#define LANES(l, n) for (i32 l = (i32)get_local_id(0); l < (i32)(n); l += (i32)get_local_size(0))
#define SYNC barrier(CLK_LOCAL_MEM_FENCE)
"""

# PoCL's rint goes through an integer: where a constant (2^31, infinity) is seen not to fit in one,
# that is undefined and the whole kernel becomes nothing.  Beyond 2^23 a float32 has no fraction;
# below, adding 2^23 rounds it to an integer, ties to even.
_ROUND = r"""
#undef rint_f32
INLINE f32 rint_f32(f32 x) {
    const f32 size = fabs(x), whole = (size + 0x1p23f) - 0x1p23f;
    return size < 0x1p23f ? copysign(whole, x) : x;
}
"""

_ROUND_DOUBLE = r"""
#undef rint_f64
INLINE f64 rint_f64(f64 x) {
    const f64 size = fabs(x), whole = (size + 0x1p52) - 0x1p52;
    return size < 0x1p52 ? copysign(whole, x) : x;
}
"""

# Lanes of a region may run in any order, which is what assume_safety says.
_LOOPS = r"""
#define LANES(l, n) _Pragma("clang loop vectorize(assume_safety)") \
    for (i32 l = 0, l##_end = (i32)(n) + HIDDEN_ZERO; l < l##_end; ++l)
#define SYNC
"""


@dataclass(frozen=True)
class Spelling:
    """What decides the dialect of a device.

    Attributes:
        fp64: Whether the device has float64.
        loops: One work-item for each group, as a processor likes it.
        hide: Hide the lengths of such loops: Intel's compiler does not vectorize one whose length
            it knows (measured on a product of 256 by 256: 66 GFLOP/s instead of 0.6).
        block: Elements of a row that one group of a map handles.
        columns: Outputs that one group of a column reduction handles.
    """

    fp64: bool = True
    loops: bool = False
    hide: bool = False
    block: int = 1024
    columns: int = 32

    def dialect(self, *, in_memory: bool = False) -> Dialect:
        """The dialect.

        Args:
            in_memory: Take launch metadata from a buffer, for kernels that have more of it than
                the device takes as arguments.
        """
        prelude = _COMMON + (_DOUBLE if self.fp64 else "") + (_LOOPS if self.loops else _THREADS)
        if not self.hide:
            prelude += _ROUND + (_ROUND_DOUBLE if self.fp64 else "")
        # No launch has an offset, which the compiler does not know.
        zero = "(i32)get_global_offset(0)" if self.hide else "0"
        prelude += f"#define HIDDEN_ZERO {zero}\n"
        head = "__kernel "
        if self.loops:
            head += "__attribute__((reqd_work_group_size(1, 1, 1))) "
        if in_memory:
            prelude += "#define M(k) tb_meta[k]\n"
            meta = "__global const i64 *tb_meta"
        else:
            prelude += "#define M(k) tb_meta.v[k]\n"
            meta = "const struct {name}_meta tb_meta"
            head = "struct {name}_meta {{ i64 v[{words}]; }};\n" + head
        return Dialect(
            name="-".join(
                [
                    "opencl",
                    ("hidden" if self.hide else "loops") if self.loops else "threads",
                    f"{self.block}x{self.columns}",
                    *([] if self.fp64 else ["fp32"]),
                    *(["memory"] if in_memory else []),
                ]
            ),
            prelude=prelude,
            kernel=head + "void {name}({args})",
            pointer="__global {const}{type} *{name}",
            meta=meta,
            group="(i64)get_group_id(0)",
            block=self.block,
            columns=self.columns,
            serial=self.loops,
            fp64=self.fp64,
        )
