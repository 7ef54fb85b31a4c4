/* Matrix products as vendors' BLAS libraries do them, for the simulated ones. */
#ifndef TENSORBUS_GEMM_H
#define TENSORBUS_GEMM_H

#include "executor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { TBS_F16, TBS_BF16, TBS_F32, TBS_F64 } tbs_type;

/* D = alpha op(A) op(B) + beta C for each matrix of a batch, column-major: op(A) is (m, k), op(B)
   (k, n), C and D (m, n), C not read if beta is 0.  Strides are between matrices, in elements.
   Sums are in float64 if D is, else in float32, in the order of k, and rounded once at the end. */
typedef struct {
    int trans_a, trans_b;
    int64_t m, n, k, batch;
    double alpha, beta;
    uint64_t a, b, c, d;            /* device addresses */
    tbs_type a_type, b_type, c_type, d_type;
    int64_t lda, ldb, ldc, ldd;
    int64_t stride_a, stride_b, stride_c, stride_d;
    int tf32;                       /* round float32 operands to 10 bits first */
} tbs_gemm_job;

/* TBS_INVALID for what a library refuses at the call: sizes, leading dimensions. */
tbs_status tbs_gemm_check(const tbs_gemm_job *job);
/* Do it; from a stream's work.  TBS_ILLEGAL_ADDRESS if it reaches out of a block. */
tbs_status tbs_gemm_run(int device, const tbs_gemm_job *job);
/* Put it into a stream; the job is copied. */
tbs_status tbs_gemm_enqueue(tbs_stream *stream, int device, const tbs_gemm_job *job);

#ifdef __cplusplus
}
#endif
#endif
