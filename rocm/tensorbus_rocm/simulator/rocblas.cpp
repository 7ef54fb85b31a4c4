/* rocBLAS: general matrix products. */
#include "gemm.h"
#include "hip.h"

#include <string.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum {
    SUCCESS = 0,
    INVALID_HANDLE = 1,
    NOT_IMPLEMENTED = 2,
    INVALID_POINTER = 3,
    INVALID_SIZE = 4,
    MEMORY_ERROR = 5,
    INTERNAL_ERROR = 6,
    INVALID_VALUE = 11
};

enum { NONE = 111, TRANSPOSE = 112 };
enum { F16 = 150, F32 = 151, F64 = 152, BF16 = 168 };

struct Handle {
    uint64_t magic;
    hip::Stream *stream;
};
const uint64_t MAGIC = 0x74627372'6f63626cu;

bool type_of(int number, tbs_type *type) {
    switch (number) {
    case F16: *type = TBS_F16; return true;
    case BF16: *type = TBS_BF16; return true;
    case F32: *type = TBS_F32; return true;
    case F64: *type = TBS_F64; return true;
    }
    return false;
}

int of(tbs_status status) {
    switch (status) {
    case TBS_OK: return SUCCESS;
    case TBS_NO_MEMORY: return MEMORY_ERROR;
    case TBS_INVALID: return INVALID_SIZE;
    default: return INTERNAL_ERROR;
    }
}

double scalar(const void *at, int compute) {
    return compute == F64 ? *(const double *)at : *(const float *)at;
}

}  // namespace

EXPORT int rocblas_get_version_string(char *text, size_t length) {
    const char *version = "4.1.0 (simulated)";
    if (!text) return INVALID_POINTER;
    if (length <= strlen(version)) return INVALID_SIZE;
    strcpy(text, version);
    return SUCCESS;
}

EXPORT const char *rocblas_status_to_string(int status) {
    switch (status) {
    case SUCCESS: return "rocblas_status_success";
    case INVALID_HANDLE: return "rocblas_status_invalid_handle";
    case NOT_IMPLEMENTED: return "rocblas_status_not_implemented";
    case INVALID_POINTER: return "rocblas_status_invalid_pointer";
    case INVALID_SIZE: return "rocblas_status_invalid_size";
    case MEMORY_ERROR: return "rocblas_status_memory_error";
    case INTERNAL_ERROR: return "rocblas_status_internal_error";
    case INVALID_VALUE: return "rocblas_status_invalid_value";
    }
    return "<undefined rocblas_status value>";
}

EXPORT int rocblas_create_handle(void **handle) {
    if (!handle) return INVALID_POINTER;
    *handle = new Handle{MAGIC, nullptr};
    return SUCCESS;
}

EXPORT int rocblas_destroy_handle(void *handle) {
    if (!handle || ((Handle *)handle)->magic != MAGIC) return INVALID_HANDLE;
    delete (Handle *)handle;
    return SUCCESS;
}

EXPORT int rocblas_set_stream(void *handle, void *stream) {
    if (!handle || ((Handle *)handle)->magic != MAGIC) return INVALID_HANDLE;
    ((Handle *)handle)->stream = hip::stream_of(stream);
    return ((Handle *)handle)->stream ? SUCCESS : INVALID_VALUE;
}

EXPORT int rocblas_set_atomics_mode(void *handle, int mode) {
    if (!handle || ((Handle *)handle)->magic != MAGIC) return INVALID_HANDLE;
    return mode == 0 || mode == 1 ? SUCCESS : INVALID_VALUE;
}

EXPORT int rocblas_gemm_strided_batched_ex(
    void *handle, int trans_a, int trans_b, int m, int n, int k, const void *alpha,
    const void *a, int a_type, int lda, long long stride_a,
    const void *b, int b_type, int ldb, long long stride_b, const void *beta,
    const void *c, int c_type, int ldc, long long stride_c,
    void *d, int d_type, int ldd, long long stride_d, int batch,
    int compute_type, int algo, int32_t, uint32_t) {
    if (!handle || ((Handle *)handle)->magic != MAGIC) return INVALID_HANDLE;
    hip::Stream *stream = ((Handle *)handle)->stream;
    if (!stream || stream->device != hip::current()) return INVALID_HANDLE;
    if (trans_a < NONE || trans_a > TRANSPOSE || trans_b < NONE || trans_b > TRANSPOSE
        || algo != 0)
        return INVALID_VALUE;
    if (m < 0 || n < 0 || k < 0 || batch < 0) return INVALID_SIZE;
    if (!alpha || !beta || !a || !b || !c || !d) return INVALID_POINTER;
    bool same = a_type == b_type && b_type == c_type && c_type == d_type;
    if (!same || compute_type != (a_type == F64 ? F64 : F32)) return NOT_IMPLEMENTED;
    tbs_type type;
    if (!type_of(a_type, &type)) return NOT_IMPLEMENTED;
    tbs_gemm_job job = {};
    job.trans_a = trans_a == TRANSPOSE;
    job.trans_b = trans_b == TRANSPOSE;
    job.m = m, job.n = n, job.k = k, job.batch = batch;
    job.alpha = scalar(alpha, compute_type), job.beta = scalar(beta, compute_type);
    job.a = (uint64_t)a, job.b = (uint64_t)b, job.c = (uint64_t)c, job.d = (uint64_t)d;
    job.a_type = job.b_type = job.c_type = job.d_type = type;
    job.lda = lda, job.ldb = ldb, job.ldc = ldc, job.ldd = ldd;
    job.stride_a = stride_a, job.stride_b = stride_b;
    job.stride_c = stride_c, job.stride_d = stride_d;
    tbs_status status = tbs_submit(stream->device, "launch");
    if (status != TBS_OK) return of(status);
    return of(tbs_gemm_enqueue(stream->work, stream->device, &job));
}

EXPORT int rocblas_gemm_ex(void *handle, int trans_a, int trans_b, int m, int n, int k,
                           const void *alpha, const void *a, int a_type, int lda,
                           const void *b, int b_type, int ldb, const void *beta,
                           const void *c, int c_type, int ldc, void *d, int d_type, int ldd,
                           int compute_type, int algo, int32_t solution, uint32_t flags) {
    return rocblas_gemm_strided_batched_ex(handle, trans_a, trans_b, m, n, k, alpha, a, a_type,
                                           lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0,
                                           d, d_type, ldd, 0, 1, compute_type, algo, solution,
                                           flags);
}
