/* cuBLAS: matrix products in plain loops, on the stream that the handle was given.

Operands of 16 bits are widened, products are summed in the compute type by fused operations in
order of k, and the result is rounded once.  With TF32 on request, float32 operands are rounded to
10 bits first, so that using it without a request is seen. */
#include "cu.h"

#include <math.h>
#include <string.h>

#include <cmath>
#include <memory>

namespace {

enum cublasStatus : int {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_NOT_INITIALIZED = 1,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_EXECUTION_FAILED = 13,
    CUBLAS_STATUS_INTERNAL_ERROR = 14,
    CUBLAS_STATUS_NOT_SUPPORTED = 15,
};

enum { R_32F = 0, R_64F = 1, R_16F = 2, R_16BF = 14 };              /* cudaDataType */
enum { COMPUTE_16F = 64, COMPUTE_32F = 68, COMPUTE_64F = 70, FAST_TF32 = 77 };
enum { MATH_TF32 = 3 };

struct Handle {
    CUcontext context;
    CUstream stream = nullptr;
    int math = 0, pointers = 0;     /* pointers 1: alpha and beta lie on the device */
};

std::set<Handle *> &blas_handles() {
    static auto *const the = new std::set<Handle *>;
    return *the;
}

float from_half(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, rest = h & 1023;
    if (exponent == 0) {
        float value = ldexpf(float(rest), -24);
        return sign ? -value : value;
    }
    const uint32_t bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | rest << 13;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Round to nearest even.  2^k is one unit in the last place of the result. */
uint16_t to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    const float size = fabsf(value);
    if (isnan(value)) return uint16_t(sign | 0x7e00);
    if (size >= 65520.0f) return uint16_t(sign | 0x7c00);
    if (size < 0x1p-14f) return uint16_t(sign | uint16_t(nearbyintf(size * 0x1p24f)));
    const uint32_t positive = bits & 0x7fffffff;
    return uint16_t(sign | (positive - 0x38000000u + 0xfffu + (positive >> 13 & 1)) >> 13);
}

float from_bfloat(uint16_t h) {
    const uint32_t bits = uint32_t(h) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

uint16_t to_bfloat(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (isnan(value)) return 0x7fff;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float to_tf32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (!isfinite(value)) return value;
    bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
    memcpy(&value, &bits, 4);
    return value;
}

size_t size_of(int type) {
    return type == R_64F ? 8 : type == R_32F ? 4 : type == R_16F || type == R_16BF ? 2 : 0;
}

double read(const void *at, int type, size_t k) {
    switch (type) {
    case R_64F: return ((const double *)at)[k];
    case R_32F: return ((const float *)at)[k];
    case R_16F: return from_half(((const uint16_t *)at)[k]);
    default: return from_bfloat(((const uint16_t *)at)[k]);
    }
}

template <class T> void write(void *at, int type, size_t k, T value) {
    switch (type) {
    case R_64F: ((double *)at)[k] = value; break;
    case R_32F: ((float *)at)[k] = float(value); break;
    case R_16F: ((uint16_t *)at)[k] = to_half(float(value)); break;
    default: ((uint16_t *)at)[k] = to_bfloat(float(value));
    }
}

/* A matrix in column-major order, transposed or not. */
struct Matrix {
    int type, transposed;
    int64_t leading;
    size_t index(int64_t row, int64_t column) const {
        return size_t(transposed ? row * leading + column : column * leading + row);
    }
    /* Bytes from its first to behind its last element. */
    size_t span(int64_t rows, int64_t columns) const {
        return rows && columns ? (index(rows - 1, columns - 1) + 1) * size_of(type) : 0;
    }
};

struct Product {
    int64_t m, n, k;
    Matrix a, b, c;
    bool tf32, wide;                /* wide: float64 */
    double alpha, beta;
    const void *alpha_at, *beta_at; /* on the device, or null */
    int scale_type;
};

template <class T> T operand(double value, bool tf32) {
    return tf32 ? T(to_tf32(float(value))) : T(value);
}

template <class T>
void multiply(const Product &p, T alpha, T beta, const void *a, const void *b, void *c) {
    /* Both operands with k running fastest. */
    std::vector<T> left(size_t(p.m * p.k)), right(size_t(p.n * p.k));
    for (int64_t i = 0; i < p.m; ++i)
        for (int64_t k = 0; k < p.k; ++k)
            left[size_t(i * p.k + k)] = operand<T>(read(a, p.a.type, p.a.index(i, k)), p.tf32);
    for (int64_t j = 0; j < p.n; ++j)
        for (int64_t k = 0; k < p.k; ++k)
            right[size_t(j * p.k + k)] = operand<T>(read(b, p.b.type, p.b.index(k, j)), p.tf32);
    for (int64_t j = 0; j < p.n; ++j)
        for (int64_t i = 0; i < p.m; ++i) {
            T sum = 0;
            for (int64_t k = 0; k < p.k; ++k)
                sum = std::fma(left[size_t(i * p.k + k)], right[size_t(j * p.k + k)], sum);
            const size_t at = p.c.index(i, j);
            T value = alpha * sum;
            /* With beta 0, c is not read: it may hold NaN. */
            if (beta != 0) value += beta * T(read(c, p.c.type, at));
            write<T>(c, p.c.type, at, value);
        }
}

tbs_status run(const Product &p, int device, uint64_t a, uint64_t b, uint64_t c) {
    for (auto part : {std::make_pair(a, p.a.span(p.m, p.k)), std::make_pair(b, p.b.span(p.k, p.n)),
                      std::make_pair(c, p.c.span(p.m, p.n))}) {
        Place place = place_of(part.first, part.second);
        if (part.second && place != Place::device && place != Place::pinned)
            return still_there(device, part.first, part.second);
    }
    const double alpha = p.alpha_at ? read(p.alpha_at, p.scale_type, 0) : p.alpha;
    const double beta = p.beta_at ? read(p.beta_at, p.scale_type, 0) : p.beta;
    if (p.wide)
        multiply<double>(p, alpha, beta, (void *)a, (void *)b, (void *)c);
    else
        multiply<float>(p, float(alpha), float(beta), (void *)a, (void *)b, (void *)c);
    return TBS_OK;
}

/* What is needed for one product or many, checked as cuBLAS checks it. */
struct Arguments {
    int op_a, op_b, m, n, k;
    const void *alpha;
    int type_a, lda, type_b, ldb;
    const void *beta;
    int type_c, ldc, compute, batch;
};

bool supported(const Arguments &g) {
    const bool same = g.type_a == g.type_b;
    switch (g.compute) {
    case COMPUTE_64F: case COMPUTE_64F + 1:
        return same && g.type_a == R_64F && g.type_c == R_64F;
    case COMPUTE_16F: case COMPUTE_16F + 1:
        return same && g.type_a == R_16F && g.type_c == R_16F;
    case COMPUTE_32F: case COMPUTE_32F + 1:
        if (!same || !size_of(g.type_a) || g.type_a == R_64F) return false;
        return g.type_c == g.type_a || g.type_c == R_32F;
    case 74: case 75: case FAST_TF32:
        return same && g.type_a == R_32F && g.type_c == R_32F;
    default: return false;
    }
}

cublasStatus prepare(Handle *handle, const Arguments &g, Product *p) {
    if (!blas_handles().count(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    const auto op = [](int value) { return value >= 0 && value <= 2; };
    const auto at_least = [](int leading, int rows) { return leading >= (rows > 1 ? rows : 1); };
    if (!op(g.op_a) || !op(g.op_b) || g.m < 0 || g.n < 0 || g.k < 0 || g.batch < 0 || !g.alpha
        || !g.beta || !at_least(g.lda, g.op_a ? g.k : g.m) || !at_least(g.ldb, g.op_b ? g.n : g.k)
        || !at_least(g.ldc, g.m))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!supported(g)) return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool wide = g.compute >= COMPUTE_64F && g.compute <= COMPUTE_64F + 1;
    const int scale = wide ? R_64F : g.compute <= COMPUTE_16F + 1 ? R_16F : R_32F;
    const bool tf32 = g.type_a == R_32F
        && (g.compute == FAST_TF32
            || (g.compute == COMPUTE_32F && (handle->math & 15) == MATH_TF32));
    *p = Product{g.m, g.n, g.k, {g.type_a, g.op_a, g.lda}, {g.type_b, g.op_b, g.ldb},
                 {g.type_c, 0, g.ldc}, tf32, wide, 0, 0, nullptr, nullptr, scale};
    if (handle->pointers) {
        p->alpha_at = g.alpha;
        p->beta_at = g.beta;
    } else {
        p->alpha = read(g.alpha, scale, 0);
        p->beta = read(g.beta, scale, 0);
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* `each(n)` gives the addresses of the n-th product's matrices, when the work runs. */
template <class F>
cublasStatus start(Handle *handle, const Arguments &g, const Product &p, F each) {
    if (g.m == 0 || g.n == 0 || g.batch == 0) return CUBLAS_STATUS_SUCCESS;
    CUstream stream;
    if (find_stream(handle->context, handle->stream, &stream)) return CUBLAS_STATUS_INVALID_VALUE;
    const int device = stream->context->device;
    if (submit(device, "launch")) return CUBLAS_STATUS_EXECUTION_FAILED;
    const int batch = g.batch;
    CUresult status = enqueue_call(stream, [=] {
        for (int n = 0; n < batch; ++n) {
            uint64_t where[3];
            if (tbs_status bad = each(n, where)) return bad;
            if (tbs_status bad = run(p, device, where[0], where[1], where[2])) return bad;
        }
        return TBS_OK;
    });
    return status ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

}  // namespace

CU_API const char *cublasGetStatusName(int status) {
    switch (status) {
    case 0: return "CUBLAS_STATUS_SUCCESS";
    case 1: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3: return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7: return "CUBLAS_STATUS_INVALID_VALUE";
    case 8: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case 11: return "CUBLAS_STATUS_MAPPING_ERROR";
    case 13: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case 15: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return "CUBLAS_STATUS_UNKNOWN";
    }
}
CU_API const char *cublasGetStatusString(int status) { return cublasGetStatusName(status); }

CU_API cublasStatus cublasCreate_v2(Handle **handle) {
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    Here here;
    if (here.status) return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new Handle{here.context};
    blas_handles().insert(*handle);
    return CUBLAS_STATUS_SUCCESS;
}

CU_API cublasStatus cublasDestroy_v2(Handle *handle) {
    Call call;
    if (!blas_handles().erase(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

#define BLAS_CALL(handle)                                                        \
    Call call;                                                                   \
    if (call.status || !blas_handles().count(handle)) return CUBLAS_STATUS_NOT_INITIALIZED

CU_API cublasStatus cublasGetVersion_v2(Handle *, int *version) {
    if (!version) return CUBLAS_STATUS_INVALID_VALUE;
    *version = 130000;
    return CUBLAS_STATUS_SUCCESS;
}
CU_API cublasStatus cublasGetProperty(int type, int *value) {
    if (!value || type < 0 || type > 2) return CUBLAS_STATUS_INVALID_VALUE;
    *value = type == 0 ? 13 : 0;
    return CUBLAS_STATUS_SUCCESS;
}

CU_API cublasStatus cublasSetStream_v2(Handle *handle, CUstream stream) {
    BLAS_CALL(handle);
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}
CU_API cublasStatus cublasGetStream_v2(Handle *handle, CUstream *stream) {
    BLAS_CALL(handle);
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}
CU_API cublasStatus cublasSetMathMode(Handle *handle, int mode) {
    BLAS_CALL(handle);
    if ((mode & ~16) < 0 || (mode & ~16) > MATH_TF32) return CUBLAS_STATUS_INVALID_VALUE;
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}
CU_API cublasStatus cublasGetMathMode(Handle *handle, int *mode) {
    BLAS_CALL(handle);
    *mode = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}
CU_API cublasStatus cublasSetPointerMode_v2(Handle *handle, int mode) {
    BLAS_CALL(handle);
    if (mode != 0 && mode != 1) return CUBLAS_STATUS_INVALID_VALUE;
    handle->pointers = mode;
    return CUBLAS_STATUS_SUCCESS;
}
CU_API cublasStatus cublasGetPointerMode_v2(Handle *handle, int *mode) {
    BLAS_CALL(handle);
    *mode = handle->pointers;
    return CUBLAS_STATUS_SUCCESS;
}
CU_API cublasStatus cublasSetWorkspace_v2(Handle *handle, void *workspace, size_t bytes) {
    BLAS_CALL(handle);
    const uint64_t at = uint64_t(workspace);
    if (bytes && (at % 256 || place_of(at, bytes) != Place::device))
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

CU_API cublasStatus cublasGemmStridedBatchedEx(
    Handle *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, uint64_t a,
    int type_a, int lda, long long stride_a, uint64_t b, int type_b, int ldb, long long stride_b,
    const void *beta, uint64_t c, int type_c, int ldc, long long stride_c, int batch, int compute,
    int) {
    Call call;
    const Arguments g = {op_a, op_b, m, n, k, alpha, type_a, lda, type_b, ldb, beta, type_c, ldc,
                         compute, batch};
    Product p;
    if (cublasStatus bad = prepare(handle, g, &p)) return bad;
    return start(handle, g, p, [=](int at, uint64_t *where) {
        where[0] = a + uint64_t(stride_a * at) * size_of(type_a);
        where[1] = b + uint64_t(stride_b * at) * size_of(type_b);
        where[2] = c + uint64_t(stride_c * at) * size_of(type_c);
        return TBS_OK;
    });
}

CU_API cublasStatus cublasGemmEx(Handle *handle, int op_a, int op_b, int m, int n, int k,
                                 const void *alpha, uint64_t a, int type_a, int lda, uint64_t b,
                                 int type_b, int ldb, const void *beta, uint64_t c, int type_c,
                                 int ldc, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, 0, b,
                                      type_b, ldb, 0, beta, c, type_c, ldc, 0, 1, compute,
                                      algorithm);
}

/* The three arrays of pointers lie on the device, and are read when the work runs. */
CU_API cublasStatus cublasGemmBatchedEx(Handle *handle, int op_a, int op_b, int m, int n, int k,
                                        const void *alpha, uint64_t a, int type_a, int lda,
                                        uint64_t b, int type_b, int ldb, const void *beta,
                                        uint64_t c, int type_c, int ldc, int batch, int compute,
                                        int) {
    Call call;
    const Arguments g = {op_a, op_b, m, n, k, alpha, type_a, lda, type_b, ldb, beta, type_c, ldc,
                         compute, batch};
    Product p;
    if (cublasStatus bad = prepare(handle, g, &p)) return bad;
    const int device = handle->context->device;
    return start(handle, g, p, [=](int at, uint64_t *where) {
        const uint64_t arrays[] = {a, b, c};
        for (int part = 0; part < 3; ++part) {
            if (tbs_status gone = still_there(device, arrays[part], size_t(batch) * 8)) return gone;
            where[part] = ((const uint64_t *)arrays[part])[at];
        }
        return TBS_OK;
    });
}
