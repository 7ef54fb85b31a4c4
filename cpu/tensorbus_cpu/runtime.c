/* What the cpu device needs beside kernels: a thread pool, the floating-point environment,
 * page-friendly memory and a loader.  Compiled at run time like a kernel, called through cffi.
 *
 * A job is a range of groups.  The caller works on it too; workers join while it is open and take
 * pieces that shrink as the range empties, so a slow core costs at most one small piece. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX_THREADS 1024

typedef void (*kernel_fn)(void *const *buffers, const int64_t *meta, int64_t first, int64_t end);

/* -- floating-point environment: round to nearest, keep subnormals, no traps --------------- */

#if defined(__x86_64__)
#include <xmmintrin.h>
typedef unsigned int fp_mode;
static inline fp_mode fp_enter(void) {
    const fp_mode old = _mm_getcsr();
    _mm_setcsr(0x1f80u);
    return old;
}
/* Status flags that a kernel raises are kept out of the host's, too. */
static inline void fp_leave(fp_mode old) { _mm_setcsr(old); }
static inline void relax(void) { _mm_pause(); }
#elif defined(__aarch64__)
typedef uint64_t fp_mode;
static inline fp_mode fp_enter(void) {
    fp_mode old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    if (old != 0) __asm__ volatile("msr fpcr, %0" : : "r"((fp_mode)0));
    return old;
}
static inline void fp_leave(fp_mode old) {
    if (old != 0) __asm__ volatile("msr fpcr, %0" : : "r"(old));
}
static inline void relax(void) { __asm__ volatile("yield"); }
#else
#include <fenv.h>
typedef fenv_t fp_mode;
static inline fp_mode fp_enter(void) {
    fp_mode old;
    fegetenv(&old);
    fesetenv(FE_DFL_ENV);
    return old;
}
static inline void fp_leave(fp_mode old) { fesetenv(&old); }
static inline void relax(void) {}
#endif

/* -- thread pool ---------------------------------------------------------------------------- */

typedef struct {
    int threads;            /* with the caller; set by tb_configure */
    int started;            /* workers that exist */
    pthread_mutex_t submit; /* one open job at a time */
    pthread_mutex_t mutex;  /* for the condition */
    pthread_cond_t wake;
    _Atomic uint64_t epoch; /* number of the newest job */
    _Atomic int open, inside, sleeping;
    /* the job; written only while it is closed and nobody is inside */
    kernel_fn fn;
    void *const *buffers;
    const int64_t *meta;
    int64_t groups;
    _Atomic int64_t next;
} thread_pool;

#define IDLE                                                                                  \
    {.threads = 1, .submit = PTHREAD_MUTEX_INITIALIZER, .mutex = PTHREAD_MUTEX_INITIALIZER, \
     .wake = PTHREAD_COND_INITIALIZER}

static thread_pool pool = IDLE;

/* -- the schedule: who does how much and when; whatever it says, the results are the same ---- */

/* A worker polls for the next job as long as Python takes from one launch to the next, and the
 * caller for the last worker as long as a piece may take; after that they sleep. */
#define POLL_NS 30000.0
#define LAST_NS 200000.0
/* How long the caller then sleeps from one look to the next. */
#define NAP_NS 20000
/* Waking a sleeping worker costs the caller about this much; shorter jobs run on the caller. */
#define WORTH_SHARING_NS 12000.0
#define STACK ((size_t)8 << 20)

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* Wait for ns nanoseconds, or until the condition holds; `relax` takes 1 to 150 cycles. */
#define POLL(condition, ns)                                       \
    for (double until = now_ns() + (ns); !(condition);) {         \
        for (int i = 0; i < 16 && !(condition); ++i) relax();     \
        if (now_ns() > until) break;                              \
    }

static void nap(void) {
    const struct timespec time = {0, NAP_NS};
    nanosleep(&time, NULL);
}

/* How many of the groups that are left one thread takes at a time. */
static int64_t share(int64_t left) {
    return left / (3 * (int64_t)pool.threads);
}

/* Whether a job is worth other threads; `guess` is one group's time in ns, 0 if unknown. */
static int worth_sharing(int64_t groups, float guess) {
    if (groups <= 1 || pool.threads <= 1) return 0;
    return guess == 0.0f || guess * (double)groups > WORTH_SHARING_NS;
}

/* When a job starts that is to be measured, else 0: one group that is known is not. */
static double measured(int64_t groups, const _Atomic float *cost, float guess) {
    return cost && (groups > 1 || guess == 0.0f) ? now_ns() : 0.0;
}

/* Take what was measured into the estimate; threads that race on it lose one, nothing else. */
static void learn(_Atomic float *cost, float guess, double start, int64_t mine) {
    if (start == 0.0 || mine <= 0) return;
    const float each = (float)((now_ns() - start + 1.0) / (double)mine);
    atomic_store_explicit(cost, guess == 0.0f ? each : 0.75f * guess + 0.25f * each,
                          memory_order_relaxed);
}

/* A worker that has seen job `seen` waits for another one; it may look too early. */
static void wait_for_job(uint64_t seen) {
    POLL(atomic_load_explicit(&pool.epoch, memory_order_acquire) != seen, POLL_NS)
    if (atomic_load(&pool.epoch) != seen) return;
    pthread_mutex_lock(&pool.mutex);
    atomic_fetch_add(&pool.sleeping, 1);
    while (atomic_load(&pool.epoch) == seen) pthread_cond_wait(&pool.wake, &pool.mutex);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.mutex);
}

/* A worker that sleeps on does not help: the caller does all that is left. */
static void wake_workers(void) {
    if (atomic_load(&pool.sleeping) == 0) return;
    pthread_mutex_lock(&pool.mutex);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.mutex);
}

/* -- jobs ----------------------------------------------------------------------------------- */

/* Take pieces of the open job until none is left; how many groups this thread did. */
static int64_t work(kernel_fn fn, void *const *buffers, const int64_t *meta, int64_t groups) {
    int64_t mine = 0, first = atomic_load_explicit(&pool.next, memory_order_relaxed);
    while (first < groups) {
        const int64_t left = groups - first, asked = share(left);
        const int64_t piece = asked < 1 ? 1 : asked > left ? left : asked;
        if (!atomic_compare_exchange_weak(&pool.next, &first, first + piece)) continue;
        fn(buffers, meta, first, first + piece);
        mine += piece;
        first = atomic_load_explicit(&pool.next, memory_order_relaxed);
    }
    return mine;
}

/* Its floating-point environment is that of `run`, which starts it: threads inherit it. */
static void *worker(void *argument) {
    (void)argument;
    for (uint64_t seen = 0;;) {
        wait_for_job(seen);
        seen = atomic_load(&pool.epoch);
        /* Enter first, then look: either we see the job closed, or its owner sees us inside. */
        atomic_fetch_add(&pool.inside, 1);
        if (atomic_load(&pool.open)) work(pool.fn, pool.buffers, pool.meta, pool.groups);
        atomic_fetch_sub(&pool.inside, 1);
    }
    return NULL;
}

static void start_workers(void) {
    pthread_attr_t attributes;
    sigset_t all, old;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals belong to the host's threads */
    while (pool.started < pool.threads - 1) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, worker, NULL) != 0) {
            pool.threads = pool.started + 1; /* fewer threads are slower, not wrong */
            break;
        }
        ++pool.started;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
}

/* A child has none of its parent's workers, and nobody who would unlock or leave. */
static void reset_pool(void) {
    const int threads = pool.threads;
    const thread_pool idle = IDLE;
    memcpy(&pool, &idle, sizeof pool);
    pool.threads = threads;
}

/* Number of threads of a parallel job, with the caller; call once, before any job. */
API int tb_configure(int threads) {
    pool.threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    pthread_atfork(NULL, NULL, reset_pool);
    return pool.threads;
}

static void open_job(kernel_fn fn, void *const *buffers, const int64_t *meta, int64_t groups) {
    pool.fn = fn;
    pool.buffers = buffers;
    pool.meta = meta;
    pool.groups = groups;
    atomic_store(&pool.next, 0);
    atomic_store(&pool.open, 1);
    atomic_fetch_add(&pool.epoch, 1);
    wake_workers();
}

static void close_job(void) {
    atomic_store(&pool.open, 0);
    POLL(atomic_load(&pool.inside) == 0, LAST_NS)
    while (atomic_load(&pool.inside) != 0) nap();
}

/* `cost` is an estimate of one group's time in ns, 0 if unknown; updated from what was measured. */
static void run(kernel_fn fn, void *const *buffers, const int64_t *meta, int64_t groups,
                _Atomic float *cost) {
    const fp_mode mode = fp_enter();
    const float guess = cost ? atomic_load_explicit(cost, memory_order_relaxed) : 0.0f;
    const double start = measured(groups, cost, guess);
    int64_t mine = groups;
    if (worth_sharing(groups, guess) && pthread_mutex_trylock(&pool.submit) == 0) {
        if (pool.started < pool.threads - 1) start_workers();
        open_job(fn, buffers, meta, groups);
        mine = work(fn, buffers, meta, groups);
        close_job();
        pthread_mutex_unlock(&pool.submit);
    } else {
        /* Or another host thread has the pool: two pools would only fight for the cores. */
        fn(buffers, meta, 0, groups);
    }
    learn(cost, guess, start, mine);
    fp_leave(mode);
}

/* A prepared launch: everything but the buffers. */
typedef struct {
    uintptr_t fn;
    int64_t groups;
    _Atomic float cost;
    int64_t meta[];
} tb_job;

API void tb_run_job(tb_job *job, const char *buffers) {
    run((kernel_fn)job->fn, (void *const *)buffers, job->meta, job->groups, &job->cost);
}

/* -- copies --------------------------------------------------------------------------------- */

#define COPY_PIECE ((int64_t)1 << 20)
/* Below that one thread copies as fast. */
#define COPY_SHARED (4 * COPY_PIECE)

static void copy_groups(void *const *buffers, const int64_t *meta, int64_t first, int64_t end) {
    const int64_t from = first * COPY_PIECE, to = end * COPY_PIECE;
    const int64_t stop = to < meta[0] ? to : meta[0];
    memcpy((char *)buffers[0] + from, (const char *)buffers[1] + from, (size_t)(stop - from));
}

typedef uintptr_t u;

API void tb_copy(u target, u source, int64_t nbytes) {
    if (nbytes < COPY_SHARED) {
        memcpy((void *)target, (const void *)source, (size_t)nbytes);
    } else {
        void *const buffers[] = {(void *)target, (void *)source};
        run(copy_groups, buffers, &nbytes, (nbytes + COPY_PIECE - 1) / COPY_PIECE, NULL);
    }
}

/* -- memory --------------------------------------------------------------------------------- */

#define HUGE ((size_t)2 << 20)

/* Huge pages are faster. */
static void prefer_huge_pages(void *start, size_t nbytes) {
#ifdef MADV_HUGEPAGE
    madvise(start, nbytes, MADV_HUGEPAGE);
#endif
}

/* 64-byte aligned, or 0; blocks of HUGE and more are mapped so that huge pages can back them.
 * Their sizes are multiples of 64 KiB, and so of every system's pages, as size classes are. */
API u tb_allocate(uint64_t nbytes) {
    void *block = NULL;
    if (nbytes < HUGE) return posix_memalign(&block, 64, nbytes) == 0 ? (u)block : 0;
    if (nbytes > SIZE_MAX - 2 * HUGE) return 0;
    const size_t size = (size_t)nbytes;
    char *base = mmap(NULL, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (base == MAP_FAILED) return 0;
    char *start = (char *)(((u)base + HUGE - 1) / HUGE * HUGE);
    if (start > base) munmap(base, (size_t)(start - base));
    if (start < base + HUGE) munmap(start + size, (size_t)(base + HUGE - start));
    prefer_huge_pages(start, size);
    return (u)start;
}

API void tb_release(u block, uint64_t nbytes) {
    if (nbytes < HUGE)
        free((void *)block);
    else
        munmap((void *)block, (size_t)nbytes);
}

/* -- loader --------------------------------------------------------------------------------- */

/* Never unloaded: a thread may be inside.  A library's own threads inherit our clean mode. */
API u tb_open(const char *path) {
    const fp_mode mode = fp_enter();
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    fp_leave(mode);
    return (u)handle;
}
API u tb_symbol(u handle, const char *name) { return (u)dlsym((void *)handle, name); }
API const char *tb_error(void) {
    const char *text = dlerror();
    return text ? text : "";
}

/* -- matrix products through CBLAS with 64-bit integers ------------------------------------- */

typedef struct {
    uintptr_t fn;
    int64_t is_double, trans_a, trans_b, m, n, k, lda, ldb, ldc;
    int64_t batch, parallel;
    const int64_t *offsets; /* in bytes: a, b and c of each product */
} tb_gemm_job;

typedef void (*sgemm_fn)(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                         const float *, int64_t, float, float *, int64_t);
typedef void (*dgemm_fn)(int, int, int, int64_t, int64_t, int64_t, double, const double *, int64_t,
                         const double *, int64_t, double, double *, int64_t);
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

static void gemm_groups(void *const *buffers, const int64_t *meta, int64_t first, int64_t end) {
    const tb_gemm_job *g = (const tb_gemm_job *)meta;
    const int ta = g->trans_a ? TRANS : NO_TRANS, tb = g->trans_b ? TRANS : NO_TRANS;
    for (int64_t i = first; i < end; ++i) {
        const void *a = (const char *)buffers[0] + g->offsets[3 * i];
        const void *b = (const char *)buffers[1] + g->offsets[3 * i + 1];
        void *c = (char *)buffers[2] + g->offsets[3 * i + 2];
        if (g->is_double)
            ((dgemm_fn)g->fn)(ROW_MAJOR, ta, tb, g->m, g->n, g->k, 1.0, a, g->lda, b, g->ldb, 0.0,
                              c, g->ldc);
        else
            ((sgemm_fn)g->fn)(ROW_MAJOR, ta, tb, g->m, g->n, g->k, 1.0f, a, g->lda, b, g->ldb,
                              0.0f, c, g->ldc);
    }
}

API void tb_gemm(const tb_gemm_job *g, u a, u b, u c) {
    void *const buffers[] = {(void *)a, (void *)b, (void *)c};
    if (g->parallel) {
        run(gemm_groups, buffers, (const int64_t *)g, g->batch, NULL);
    } else {
        const fp_mode mode = fp_enter();
        gemm_groups(buffers, (const int64_t *)g, 0, g->batch);
        fp_leave(mode);
    }
}
