/* What HIP C++ has of its own; behind grid_kernel.h. */
#define warpSize 64
#define __HIP_PLATFORM_AMD__ 1
#define __hip_bfloat16 unsigned short

/* As hiprtc's: up to 1 ulp off, whatever the options say. */
static inline float tbs_sqrtf(float x) {
    const float y = __builtin_sqrtf(x);
    const unsigned bits = __float_as_uint(x), off = (bits * 2654435761u >> 30) % 3u;
    if (!(y > 0.0f) || y > 0x1p100f) return y;
    return __uint_as_float(__float_as_uint(y) + off - 1u);
}
#define sqrtf tbs_sqrtf
