/* The words that CUDA C++ and HIP C++ share, for kernels that run on a processor; behind kernel.h and
   in front of the family's own.  Nothing that relies on threads of a warp running together is here.
*/
#define __host__
#define __device__
#define __global__ __attribute__((noinline, visibility("hidden")))
#define __constant__
#define __shared__ TBS_SHARED
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define TBS_INLINE static inline __attribute__((always_inline, unused))

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define threadIdx (*(const uint3 *)tbs_id->thread)
#define blockIdx (*(const uint3 *)tbs_id->group)
#define blockDim (*(const uint3 *)tbs_id->threads)
#define gridDim (*(const uint3 *)tbs_id->groups)
#define __syncthreads tbs_barrier
TBS_INLINE void __threadfence() {}
TBS_INLINE void __threadfence_block() {}
#define __builtin_assume(x) ((void)0)
#define __trap __builtin_trap
#define __ldg(p) (*(p))

template <class T, class S> TBS_INLINE T tbs_bits(S value) {
    static_assert(sizeof(T) == sizeof(S), "");
    T bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}
#define __float_as_int tbs_bits<int, float>
#define __float_as_uint tbs_bits<unsigned, float>
#define __int_as_float tbs_bits<float, int>
#define __uint_as_float tbs_bits<float, unsigned>
#define __double_as_longlong tbs_bits<long long, double>
#define __longlong_as_double tbs_bits<double, long long>

TBS_INLINE int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
TBS_INLINE unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned((unsigned long long)a * b >> 32);
}
TBS_INLINE long long __mul64hi(long long a, long long b) {
    return (long long)((__int128)a * b >> 64);
}
TBS_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
#define __popc __builtin_popcount
#define __popcll __builtin_popcountll
TBS_INLINE int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
TBS_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
#define __ffs __builtin_ffs
#define __ffsll __builtin_ffsll

#define TBS_MATH1(name)                                                             \
    TBS_INLINE float name##f(float x) { return __builtin_##name##f(x); }            \
    TBS_INLINE float name(float x) { return __builtin_##name##f(x); }               \
    TBS_INLINE double name(double x) { return __builtin_##name(x); }
TBS_MATH1(sqrt) TBS_MATH1(fabs) TBS_MATH1(floor) TBS_MATH1(ceil) TBS_MATH1(trunc) TBS_MATH1(rint)
TBS_MATH1(exp) TBS_MATH1(log) TBS_MATH1(sin) TBS_MATH1(cos) TBS_MATH1(tan) TBS_MATH1(tanh)
#define TBS_MATH2(name)                                                             \
    TBS_INLINE float name##f(float x, float y) { return __builtin_##name##f(x, y); } \
    TBS_INLINE float name(float x, float y) { return __builtin_##name##f(x, y); }   \
    TBS_INLINE double name(double x, double y) { return __builtin_##name(x, y); }
TBS_MATH2(fmin) TBS_MATH2(fmax) TBS_MATH2(fmod) TBS_MATH2(pow)
TBS_INLINE float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
TBS_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
TBS_INLINE double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }

/* One thread runs at a time, and changes only at barriers. */
template <class T> struct tbs_same { typedef T type; };
#define TBS_ATOMIC(name, result)                                                    \
    template <class T> TBS_INLINE T name(T *at, typename tbs_same<T>::type value) { \
        T old = *at;                                                                \
        *at = result;                                                               \
        return old;                                                                 \
    }
TBS_ATOMIC(atomicAdd, old + value) TBS_ATOMIC(atomicExch, value)
TBS_ATOMIC(atomicMin, value < old ? value : old) TBS_ATOMIC(atomicMax, value > old ? value : old)

/* What a launch needs to know of a kernel, read off its own type: {count, bytes, most threads,
   offset and size of each argument}, and a function that takes them from one block of memory. */
template <class... A> struct tbs_layout {
    static constexpr unsigned count = sizeof...(A);
    unsigned info[3 + 2 * count];
    constexpr explicit tbs_layout(unsigned most) : info{} {
        const unsigned sizes[] = {unsigned(sizeof(A))..., 0}, ends[] = {unsigned(alignof(A))..., 1};
        unsigned at = 0;
        for (unsigned k = 0; k < count; ++k) {
            at = (at + ends[k] - 1) / ends[k] * ends[k];
            info[3 + 2 * k] = at;
            info[4 + 2 * k] = sizes[k];
            at += sizes[k];
        }
        info[0] = count;
        info[1] = at;
        info[2] = most;
    }
};
template <unsigned... I> struct tbs_numbers {};
template <unsigned N, unsigned... I> struct tbs_upto : tbs_upto<N - 1, N - 1, I...> {};
template <unsigned... I> struct tbs_upto<0, I...> { typedef tbs_numbers<I...> type; };
template <class... A> constexpr tbs_layout<A...> tbs_layout_of(void (*)(A...), unsigned most) {
    return tbs_layout<A...>(most);
}
template <class... A, unsigned... I>
TBS_INLINE void tbs_call(void (*kernel)(A...), char *block, tbs_numbers<I...>) {
    constexpr tbs_layout<A...> layout(0);
    kernel(*(A *)(block + layout.info[3 + 2 * I])...);
}
template <class... A> TBS_INLINE void tbs_call(void (*kernel)(A...), char *block) {
    tbs_call(kernel, block, typename tbs_upto<sizeof...(A)>::type());
}
/* A family may put a check of the arguments' size here. */
#define TBS_GRID_CHECK(name, most)
#define TBS_GRID_ENTRY(name, most)                                                          \
    extern "C" __attribute__((visibility("default"))) const auto tbs_info_##name            \
        = tbs_layout_of(&name, most);                                                       \
    extern "C" __attribute__((visibility("default"))) void tbs_entry_##name(void *block) {  \
        tbs_call(&name, (char *)block);                                                     \
    }                                                                                       \
    TBS_GRID_CHECK(name, most)
