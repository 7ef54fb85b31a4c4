/* The part of metal_stdlib that kernels use, as C++; goes in front of every simulated kernel. */
static inline tbs_u32 tbs_thread() { return tbs_id->thread[0]; }
static inline tbs_u32 tbs_group() { return tbs_id->group[0]; }
static inline tbs_u32 tbs_threads() { return tbs_id->threads[0]; }
static inline tbs_u32 tbs_groups() { return tbs_id->groups[0]; }
static inline tbs_u32 tbs_thread_position() { return tbs_group() * tbs_threads() + tbs_thread(); }

struct tbs_any {    /* a buffer's address, as whatever pointer the kernel declares */
    void *address;
    template <class T> operator T *() const { return (T *)address; }
};

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

#define kernel extern "C" __attribute__((visibility("default")))
#define device
#define constant const
#define threadgroup TBS_SHARED
#define thread

template <class T, class S> static inline T as_type(S x) {
    static_assert(sizeof(T) == sizeof(S), "as_type needs types of one size");
    T y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}

namespace metal {
enum class mem_flags { mem_none, mem_device, mem_threadgroup, mem_texture };
static inline void threadgroup_barrier(mem_flags) { tbs_barrier(); }
static inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float floor(float x) { return __builtin_floorf(x); }
static inline float ceil(float x) { return __builtin_ceilf(x); }
static inline float trunc(float x) { return __builtin_truncf(x); }
static inline float rint(float x) { return __builtin_rintf(x); }
static inline float fabs(float x) { return __builtin_fabsf(x); }
static inline float sqrt(float x) { return __builtin_sqrtf(x); }
static inline int mulhi(int a, int b) { return int((long(a) * b) >> 32); }
static inline uint mulhi(uint a, uint b) { return uint((ulong(a) * b) >> 32); }
namespace precise {
using metal::sqrt;
}
}
