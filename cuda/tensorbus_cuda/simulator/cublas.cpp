/* cuBLAS: matrix products on the stream that the handle was given.

With TF32 on request operands really are rounded, so that using it without a request is seen. */
#include "cu.h"
#include "gemm.h"

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
enum { COMPUTE_32F = 68, COMPUTE_64F = 70, FAST_TF32 = 77 };      /* sums in half: not simulated */
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

bool known(int type) { return type == R_32F || type == R_64F || type == R_16F || type == R_16BF; }

size_t size_of(int type) { return type == R_64F ? 8 : type == R_32F ? 4 : 2; }

tbs_type type_of(int type) {
    return type == R_64F ? TBS_F64 : type == R_32F ? TBS_F32 : type == R_16F ? TBS_F16 : TBS_BF16;
}

/* alpha or beta, which has the type that sums have. */
double read_scalar(const void *at, int type) {
    return type == R_64F ? *(const double *)at : *(const float *)at;
}

struct Product {
    tbs_gemm_job job;
    const void *alpha, *beta;       /* on the device, or null */
    int scale_type;
};

tbs_status run(const Product &p, int device, const uint64_t *where) {
    tbs_gemm_job job = p.job;
    if (p.alpha) {
        job.alpha = read_scalar(p.alpha, p.scale_type);
        job.beta = read_scalar(p.beta, p.scale_type);
    }
    job.a = where[0];
    job.b = where[1];
    job.c = job.d = where[2];
    return tbs_gemm_run(device, &job);
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
    case COMPUTE_32F: case COMPUTE_32F + 1:
        if (!same || !known(g.type_a) || g.type_a == R_64F) return false;
        return g.type_c == g.type_a || g.type_c == R_32F;
    case 74: case 75: case FAST_TF32:
        return same && g.type_a == R_32F && g.type_c == R_32F;
    default: return false;
    }
}

cublasStatus prepare(Handle *handle, const Arguments &g, Product *p) {
    if (!blas_handles().count(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    const auto op = [](int value) { return value >= 0 && value <= 2; };
    if (!op(g.op_a) || !op(g.op_b) || !g.alpha || !g.beta) return CUBLAS_STATUS_INVALID_VALUE;
    *p = Product{};
    tbs_gemm_job &job = p->job;
    job.trans_a = g.op_a;
    job.trans_b = g.op_b;
    job.m = g.m;
    job.n = g.n;
    job.k = g.k;
    job.batch = 1;                  /* the others are jobs of their own */
    job.lda = g.lda;
    job.ldb = g.ldb;
    job.ldc = job.ldd = g.ldc;
    if (g.batch < 0 || tbs_gemm_check(&job)) return CUBLAS_STATUS_INVALID_VALUE;
    if (!supported(g)) return CUBLAS_STATUS_NOT_SUPPORTED;
    job.a_type = type_of(g.type_a);
    job.b_type = type_of(g.type_b);
    job.c_type = job.d_type = type_of(g.type_c);
    job.tf32 = g.type_a == R_32F
        && (g.compute == FAST_TF32
            || (g.compute == COMPUTE_32F && (handle->math & 15) == MATH_TF32));
    const bool wide = g.compute >= COMPUTE_64F && g.compute <= COMPUTE_64F + 1;
    p->scale_type = wide ? R_64F : R_32F;
    if (handle->pointers) {
        p->alpha = g.alpha;
        p->beta = g.beta;
    } else {
        job.alpha = read_scalar(g.alpha, p->scale_type);
        job.beta = read_scalar(g.beta, p->scale_type);
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
            if (tbs_status bad = run(p, device, where)) return bad;
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
    case 16: return "CUBLAS_STATUS_LICENSE_ERROR";
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

/* What the pointers in arrays have to be aligned to, as documented for 16-bit types and fast modes:
   kernels on tensor cores read that much at a time, and cuBLAS cannot see the pointers. */
uint64_t pointer_alignment(const Arguments &g) {
    const bool fast = g.compute >= 74 && g.compute <= FAST_TF32;
    if (size_of(g.type_a) != 2 && !fast) return 1;
    return g.k % 8 == 0 ? 16 : g.k % 2 == 0 ? 4 : 1;
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
    const uint64_t alignment = pointer_alignment(g);
    return start(handle, g, p, [=](int at, uint64_t *where) {
        const uint64_t arrays[] = {a, b, c};
        for (int part = 0; part < 3; ++part) {
            if (tbs_status gone = still_there(device, arrays[part], size_t(batch) * 8)) return gone;
            where[part] = ((const uint64_t *)arrays[part])[at];
            if (where[part] % alignment == 0) continue;
            tbs_device_fail(device, TBS_ILLEGAL_ADDRESS);
            return TBS_ILLEGAL_ADDRESS;
        }
        return TBS_OK;
    });
}
