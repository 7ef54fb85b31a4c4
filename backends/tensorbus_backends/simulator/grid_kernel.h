/* The words that CUDA C++ and HIP C++ share, for kernels that run on the executor; behind kernel.h.
   `grid.h` adds an entry for each kernel at the end of the text. */
struct tbs_place { tbs_u32 x, y, z; };

#define threadIdx (*(const tbs_place *)tbs_id->thread)
#define blockIdx (*(const tbs_place *)tbs_id->group)
#define blockDim (*(const tbs_place *)tbs_id->threads)
#define gridDim (*(const tbs_place *)tbs_id->groups)
#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ TBS_SHARED
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __syncthreads tbs_barrier

template <class To, class From> static inline To tbs_cast(From x) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
#define __float_as_uint(x) tbs_cast<unsigned, float>(x)
#define __float_as_int(x) tbs_cast<int, float>(x)
#define __uint_as_float(x) tbs_cast<float, unsigned>(x)
#define __int_as_float(x) tbs_cast<float, int>(x)
#define __double_as_longlong(x) tbs_cast<long long, double>(x)
#define __longlong_as_double(x) tbs_cast<double, long long>(x)

#define fmaf __builtin_fmaf
#define fma __builtin_fma
#define sqrtf __builtin_sqrtf
#define sqrt __builtin_sqrt
#define floorf __builtin_floorf
#define floor __builtin_floor
#define ceilf __builtin_ceilf
#define ceil __builtin_ceil
#define truncf __builtin_truncf
#define trunc __builtin_trunc
#define rintf __builtin_rintf
#define rint __builtin_rint
#define fabsf __builtin_fabsf
#define fabs __builtin_fabs

static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned((unsigned long long)a * b >> 32);
}
static inline long long __mul64hi(long long a, long long b) {
    return (long long)((__int128)a * b >> 64);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

/* A kernel called with its arguments packed as the drivers do it: each at a multiple of its
   alignment. */
template <class... Rest> struct tbs_unpack;
template <> struct tbs_unpack<> {
    template <class Kernel, class... Done>
    static inline __attribute__((always_inline))
    void call(Kernel kernel, char *, tbs_size, Done &...done) { kernel(done...); }
};
template <class First, class... Rest> struct tbs_unpack<First, Rest...> {
    template <class Kernel, class... Done>
    static inline __attribute__((always_inline))
    void call(Kernel kernel, char *packed, tbs_size at, Done &...done) {
        at = (at + alignof(First) - 1) / alignof(First) * alignof(First);
        tbs_unpack<Rest...>::call(kernel, packed, at + sizeof(First), done...,
                                  *(First *)(packed + at));
    }
};
template <class... All>
static inline void tbs_enter(void (*kernel)(All...), void *packed) {
    tbs_unpack<All...>::call(kernel, (char *)packed, 0);
}

/* Number of arguments, then size and alignment of each. */
template <class... All> struct tbs_shape { static const tbs_u32 table[]; };
template <class... All> const tbs_u32 tbs_shape<All...>::table[] = {
    tbs_u32(sizeof...(All)), tbs_u32(sizeof(All) | alignof(All) << 24)...};
template <class... All> static const tbs_u32 *tbs_shape_of(void (*)(All...)) {
    return tbs_shape<All...>::table;
}

#define TBS_GRID_KERNEL(name)                                                                  \
    extern "C" __attribute__((visibility("default"))) void tbs_enter_##name(void *packed) {    \
        tbs_enter(&name, packed);                                                              \
    }                                                                                          \
    extern "C" __attribute__((visibility("default"))) const tbs_u32 *tbs_shape_##name() {      \
        return tbs_shape_of(&name);                                                            \
    }
