"""The kernel language in CUDA C++: groups are thread blocks, lanes are their threads.

The text includes no header, so NVRTC needs none installed.  Rounding does not depend on options:
every operation that has an intrinsic with a rounding mode is spelled with it where an option could
change it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorbus_backends.dialect import Dialect

__all__ = ["METADATA", "Spelling"]

METADATA = "tb_meta"
"""Name of the metadata argument."""

_PRELUDE = r"""
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
#define fma_f32 __fmaf_rn
#define fma_f64 __fma_rn
#define sqrt_f32 __fsqrt_rn
#define sqrt_f64 __dsqrt_rn
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
            prelude=f"#define GROUP {self.group}\n#define M(k) {reach}{_PRELUDE}",
            kernel=head + "{name}({args})",
            pointer="{const}{type} *__restrict__ {name}",
            meta=meta,
            group="(i64)blockIdx.x",
            # Or a region of GROUP lanes becomes a loop.
            hooks={"enter": "    __builtin_assume(threadIdx.x < GROUP);\n"},
        )
