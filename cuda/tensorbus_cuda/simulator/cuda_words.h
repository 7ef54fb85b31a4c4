/* The words of CUDA C++ that HIP C++ lacks or has otherwise; behind grid_kernel.h. */
#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#define warpSize 32

/* Barriers against contraction: a result that comes through one is rounded. */
TBS_INLINE float tbs_rounded(float x) { __asm__("" : "+g"(x)); return x; }
TBS_INLINE double tbs_rounded(double x) { __asm__("" : "+g"(x)); return x; }
#define __fadd_rn(a, b) tbs_rounded((float)(a) + (float)(b))
#define __fsub_rn(a, b) tbs_rounded((float)(a) - (float)(b))
#define __fmul_rn(a, b) tbs_rounded((float)(a) * (float)(b))
#define __fdiv_rn(a, b) ((float)(a) / (float)(b))
#define __frcp_rn(a) (1.0f / (float)(a))
#define __dadd_rn(a, b) tbs_rounded((double)(a) + (double)(b))
#define __dsub_rn(a, b) tbs_rounded((double)(a) - (double)(b))
#define __dmul_rn(a, b) tbs_rounded((double)(a) * (double)(b))
#define __ddiv_rn(a, b) ((double)(a) / (double)(b))
#define __fmaf_rn __builtin_fmaf
#define __fma_rn __builtin_fma
#define __fsqrt_rn __builtin_sqrtf
#define __dsqrt_rn __builtin_sqrt

#undef TBS_GRID_CHECK
#define TBS_GRID_CHECK(name, most)                                                          \
    static_assert(decltype(tbs_layout_of(&name, most))(most).info[1] <= 4096,               \
                  "formal parameter space overflowed: a kernel takes at most 4096 bytes");
