/* Declarations of the part of metal_stdlib that kernels use, in OpenCL C++, for msl.py. */
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

#define kernel __kernel
#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private

namespace metal {
enum class mem_flags { mem_none, mem_device, mem_threadgroup, mem_texture };
void threadgroup_barrier(mem_flags flags);
template <class T, class S> inline T as_type(S x) {
    static_assert(sizeof(T) == sizeof(S), "as_type needs types of one size");
    return __builtin_bit_cast(T, x);
}
float fma(float a, float b, float c);
float floor(float x);
float ceil(float x);
float trunc(float x);
float rint(float x);
float fabs(float x);
float sqrt(float x);
int mulhi(int a, int b);
uint mulhi(uint a, uint b);
namespace precise {
float sqrt(float x);
}
}
