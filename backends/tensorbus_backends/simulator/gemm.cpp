/* Matrix products, plainly. */
#include "gemm.h"

#include "internal.h"

#include <string.h>

#include <algorithm>
#include <cfenv>
#include <vector>

namespace {

float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float from_half(uint16_t h) {
    uint32_t sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest < 0x400) return float_of(sign | bits_of((float)rest * 0x1p-24f));
    if (rest >= 0x7c00) return float_of(sign | 0x7f800000u | rest << 13);
    return float_of(sign | ((rest << 13) + 0x38000000u));
}

uint16_t to_half(float x) {
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu, rounded;
    if (size > 0x7f800000u) rounded = 0x7e00u;
    else if (size >= 0x477ff000u) rounded = 0x7c00u;
    else if (size < 0x38800000u) rounded = bits_of(float_of(size) + 0.5f) - 0x3f000000u;
    else rounded = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
    return (uint16_t)(sign | rounded);
}

uint16_t to_bfloat(float x) {
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

size_t size_of(tbs_type type) { return type == TBS_F64 ? 8 : type == TBS_F32 ? 4 : 2; }

template <class T> T load(tbs_type type, uint64_t base, int64_t at) {
    switch (type) {
    case TBS_F16: return (T)from_half(((const uint16_t *)base)[at]);
    case TBS_BF16: return (T)float_of((uint32_t)((const uint16_t *)base)[at] << 16);
    case TBS_F32: return (T)((const float *)base)[at];
    case TBS_F64: return (T)((const double *)base)[at];
    }
    return T();
}

/* To the nearest of 10 bits after the point, to even at a tie. */
template <class T> void round_to_tf32(std::vector<T> *values) {
    for (T &value : *values) {
        uint32_t bits = bits_of((float)value);
        if ((bits & 0x7f800000u) == 0x7f800000u) continue;
        value = (T)float_of((bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu);
    }
}

template <class T> void store(tbs_type type, uint64_t base, int64_t at, T x) {
    switch (type) {
    case TBS_F16: ((uint16_t *)base)[at] = to_half((float)x); break;
    case TBS_BF16: ((uint16_t *)base)[at] = to_bfloat((float)x); break;
    case TBS_F32: ((float *)base)[at] = (float)x; break;
    case TBS_F64: ((double *)base)[at] = (double)x; break;
    }
}

/* One matrix as (rows, columns) in the order of its own columns. */
template <class T>
std::vector<T> fetch(tbs_type type, uint64_t base, int64_t rows, int64_t columns, int64_t ld,
                     bool transposed) {
    std::vector<T> all((size_t)(rows * columns));
    for (int64_t j = 0; j < columns; ++j)
        for (int64_t i = 0; i < rows; ++i)
            all[(size_t)(j * rows + i)] = load<T>(type, base, transposed ? j + i * ld : i + j * ld);
    return all;
}

template <class T> void product(const tbs_gemm_job &job, int64_t which) {
    auto at = [which](uint64_t base, int64_t stride, tbs_type type) {
        return base + (uint64_t)(which * stride) * size_of(type);
    };
    std::vector<T> a = fetch<T>(job.a_type, at(job.a, job.stride_a, job.a_type), job.m, job.k,
                                job.lda, job.trans_a);
    std::vector<T> b = fetch<T>(job.b_type, at(job.b, job.stride_b, job.b_type), job.k, job.n,
                                job.ldb, job.trans_b);
    if (job.tf32) {
        round_to_tf32(&a);
        round_to_tf32(&b);
    }
    uint64_t c = at(job.c, job.stride_c, job.c_type), d = at(job.d, job.stride_d, job.d_type);
    std::vector<T> sum((size_t)job.m);
    for (int64_t j = 0; j < job.n; ++j) {
        std::fill(sum.begin(), sum.end(), T(0));
        for (int64_t l = 0; l < job.k; ++l) {
            T factor = b[(size_t)(j * job.k + l)];
            const T *column = &a[(size_t)(l * job.m)];
            for (int64_t i = 0; i < job.m; ++i) sum[(size_t)i] += column[i] * factor;
        }
        for (int64_t i = 0; i < job.m; ++i) {
            T x = (T)job.alpha * sum[(size_t)i];
            if (job.beta != 0) x += (T)job.beta * load<T>(job.c_type, c, i + j * job.ldc);
            store<T>(job.d_type, d, i + j * job.ldd, x);
        }
    }
}

/* Elements from the first to the last of a batch of matrices. */
size_t extent(int64_t rows, int64_t columns, int64_t ld, int64_t stride, int64_t batch) {
    return (size_t)((batch - 1) * stride + (columns - 1) * ld + rows);
}

bool inside(int device, uint64_t address, tbs_type type, size_t elements) {
    uint64_t base;
    size_t size;
    int owner;
    return tbs_range(address, elements * size_of(type), &base, &size, &owner) == TBS_OK
        && owner == device;
}

struct Waiting {
    int device;
    tbs_gemm_job job;
};

tbs_status run_waiting(void *data) {
    return tbs_gemm_run(((Waiting *)data)->device, &((Waiting *)data)->job);
}

void drop_waiting_job(void *data) { delete (Waiting *)data; }

}  // namespace

using namespace tbs;

extern "C" {

tbs_status tbs_gemm_check(const tbs_gemm_job *job) {
    if (job->m < 0 || job->n < 0 || job->k < 0 || job->batch < 0)
        return fail(TBS_INVALID, "a matrix product with a negative size");
    int64_t a_rows = job->trans_a ? job->k : job->m, b_rows = job->trans_b ? job->n : job->k;
    if (job->lda < std::max<int64_t>(1, a_rows) || job->ldb < std::max<int64_t>(1, b_rows)
        || job->ldc < std::max<int64_t>(1, job->m) || job->ldd < std::max<int64_t>(1, job->m))
        return fail(TBS_INVALID, "a leading dimension is smaller than its matrix");
    return TBS_OK;
}

tbs_status tbs_gemm_run(int device, const tbs_gemm_job *job) {
    if (!job->m || !job->n || !job->batch) return TBS_OK;
    int64_t batch = job->batch;
    size_t of_a = job->trans_a ? extent(job->k, job->m, job->lda, job->stride_a, batch)
                               : extent(job->m, job->k, job->lda, job->stride_a, batch);
    size_t of_b = job->trans_b ? extent(job->n, job->k, job->ldb, job->stride_b, batch)
                               : extent(job->k, job->n, job->ldb, job->stride_b, batch);
    size_t of_c = extent(job->m, job->n, job->ldc, job->stride_c, batch);
    size_t of_d = extent(job->m, job->n, job->ldd, job->stride_d, batch);
    if (!(inside(device, job->a, job->a_type, job->k ? of_a : 0)
          && inside(device, job->b, job->b_type, job->k ? of_b : 0)
          && (job->beta == 0 || inside(device, job->c, job->c_type, of_c))
          && inside(device, job->d, job->d_type, of_d))) {
        tbs_device_fail(device, TBS_ILLEGAL_ADDRESS);
        return fail(TBS_ILLEGAL_ADDRESS, "a matrix product reaches out of its block");
    }
    /* A device computes as it does, whatever the host's thread is set to. */
    std::fenv_t mode;
    std::fegetenv(&mode);
    std::fesetenv(FE_DFL_ENV);
    for (int64_t which = 0; which < batch; ++which) {
        if (job->d_type == TBS_F64) product<double>(*job, which);
        else product<float>(*job, which);
    }
    std::fesetenv(&mode);
    return TBS_OK;
}

tbs_status tbs_gemm_enqueue(tbs_stream *stream, int device, const tbs_gemm_job *job) {
    tbs_status status = tbs_gemm_check(job);
    if (status != TBS_OK) return status;
    return tbs_enqueue(stream, run_waiting, new Waiting{device, *job}, drop_waiting_job);
}

}  // extern "C"
