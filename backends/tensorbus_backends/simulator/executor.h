/* The machine behind the simulated drivers: memory, streams, kernels, failures on demand.

A simulated driver (libcuda, libamdhip64, Metal) is a shared library that exports the vendor's own
functions and does their work with what is declared here; `library` in __init__.py compiles it
together with the .cpp files of this folder.
One process-wide lock protects everything: every function below takes it, so a driver needs no lock
of its own around one call, and may hold `tbs_lock` around several.

Nothing here is a model of speed.  It is a model of what a driver may do to a program: work is late
(a stream runs only when somebody waits for it), threads of a group run in any order between
barriers, fresh memory is dirty, and memory ends at a page that cannot be touched.  All that is
random follows from TENSORBUS_SIMULATE_SEED (default 0).
*/
#ifndef TENSORBUS_EXECUTOR_H
#define TENSORBUS_EXECUTOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void tbs_lock(void);   /* recursive */
void tbs_unlock(void);

/* What went wrong, in any driver's words later.  A device on which a kernel touched forbidden
   memory or was lost answers with that status to everything afterwards (as CUDA does). */
typedef enum {
    TBS_OK = 0,
    TBS_NO_MEMORY,
    TBS_INVALID,        /* an argument that the real driver would refuse */
    TBS_COMPILE,        /* the log says why */
    TBS_LAUNCH,         /* refused, or divergent barrier, division trap, ... */
    TBS_ILLEGAL_ADDRESS,
    TBS_LOST,
    TBS_NOT_READY
} tbs_status;
const char *tbs_message(void);      /* of this thread's last failure, for logs */
int tbs_forked(void);   /* 1 in a child of fork: all below then does nothing and answers TBS_LOST */

/* -- settings: environment variable TENSORBUS_SIMULATE_<FAMILY>, "key=value,key=value" ---------
   e.g. TENSORBUS_SIMULATE_CUDA="devices=2,capability=9.0/7.5,memory=2GiB,driver=13.0".  A value
   with '/' is a list by device; the last entry serves the devices after it. */
const char *tbs_option(const char *family, const char *key, int device, const char *otherwise);
int64_t tbs_option_int(const char *family, const char *key, int device, int64_t otherwise);
                                    /* understands KiB, MiB, GiB */

/* -- failures on demand: TENSORBUS_SIMULATE_FAULTS="alloc:3,launch:5", or by a call ------------
   The n-th call of a kind (counted from 1, from when it was armed) fails once; "lost" and
   "illegal" then stay.  The executor itself asks for
     alloc, compile, load   in tbs_alloc, tbs_compile, tbs_load
     kernel, illegal        in tbs_run: it stops half-way with TBS_LAUNCH or TBS_ILLEGAL_ADDRESS
   and a driver calls `tbs_submit` once at the start of each launch and each copy for
     launch, copy           refused at the call: TBS_LAUNCH
     lost                   device gone, at the n-th launch or copy
     slow                   every launch and copy sleeps n milliseconds
   Counted alone, and never failing: wait, in tbs_drain and tbs_wait, whoever needs what they do. */
void tbs_arm(const char *kind, long nth);   /* nth 0 disarms; kind NULL disarms all and revives */
int tbs_trip(const char *kind);             /* 1 if this call is to fail; counts the call */
long tbs_count(const char *kind);           /* calls counted since the library was loaded */
tbs_status tbs_submit(int device, const char *kind);    /* kind "launch" or "copy" */

/* -- memory ------------------------------------------------------------------------------------
   A block is a mapping of its own, starts at a multiple of 256 and ends, rounded up to that, at an
   inaccessible page.  What lies between (at most 255 bytes) and just in front is checked when the
   block is freed and when a stream is drained: a change there is TBS_ILLEGAL_ADDRESS.  A block is
   filled with 0xA5 bytes (its first 4 MiB; what follows is zero).  Freed blocks become inaccessible
   at once, and the last 256 of them stay so, so that a use after free faults. */
tbs_status tbs_alloc(int device, size_t nbytes, uint64_t *address);
tbs_status tbs_free(int device, uint64_t address);
tbs_status tbs_memory_info(int device, size_t *free_bytes, size_t *total_bytes);
void tbs_set_memory(int device, size_t total_bytes);
/* TBS_OK if [address, address + nbytes) lies in one live block; *base and *size are the block's. */
tbs_status tbs_range(uint64_t address, size_t nbytes, uint64_t *base, size_t *size, int *device);

/* -- streams: work runs in order, and only in tbs_drain, tbs_wait, tbs_reached or when 64 pieces
   wait ---------------------------------------------------------------------------------------
   `work` runs with the lock held, then `drop` frees its data (either may be NULL).  On a device
   that failed for good, work is dropped instead of run.  A failure of work that is not for good is
   kept for the stream's next tbs_drain or tbs_wait, and the work behind it runs. */
typedef struct tbs_stream tbs_stream;
tbs_stream *tbs_stream_new(int device);
void tbs_stream_free(tbs_stream *stream);             /* drains */
tbs_status tbs_enqueue(tbs_stream *stream, tbs_status (*work)(void *), void *data,
                       void (*drop)(void *));
tbs_status tbs_drain(tbs_stream *stream);             /* first failure met, sticky ones again */
tbs_status tbs_drain_device(int device);              /* every stream of it */
uint64_t tbs_mark(tbs_stream *stream);                /* present end, for events; never 0 */
tbs_status tbs_reached(tbs_stream *stream, uint64_t mark);  /* runs one piece; OK or NOT_READY */
tbs_status tbs_wait(tbs_stream *stream, uint64_t mark);     /* runs up to the mark */
double tbs_time(tbs_stream *stream, uint64_t mark);   /* seconds when it was reached, or -1 */
tbs_status tbs_device_status(int device);             /* sticky failure of a device, or OK */
void tbs_device_fail(int device, tbs_status status);  /* make it so */
void tbs_device_reset(int device);                    /* forget failures and waiting work */

/* -- kernels -----------------------------------------------------------------------------------
   A kernel library is C++ compiled with `kernel.h` of this folder in front of it (each family adds
   its own words).  It gets a pointer to `tbs_ids` when it is loaded, which the executor keeps up to
   date, and calls `barrier` through it.  Shared memory is static storage in section "tb_shared",
   filled with 0xA5 before every group. */
typedef struct tbs_ids {
    uint32_t thread[3], group[3], threads[3], groups[3];
    void (*barrier)(void);
    void *dynamic;                  /* shared memory asked for at the launch */
} tbs_ids;

/* Compile C++ text to a shared library in memory; *binary and *log are malloc'ed (log may be "").
   The text of `kernel.h`, then `include` (text or NULL) are put in front; line numbers of the log
   are the text's own, under `name`.  `compiler` NULL: TENSORBUS_SIMULATE_CXX, else the compiler the
   simulator was built with.  The lock is not taken while the compiler runs.

   `library` embeds every source that is no C or C++ file as text: `my_words.h` is then
   `extern "C" const char tbs_text_my_words[]`, to be passed as `include`. */
tbs_status tbs_compile(const char *name, const char *include, const char *text,
                       const char *const *options, int option_count, const char *compiler,
                       void **binary, size_t *size, char **log);

typedef struct tbs_module tbs_module;
tbs_status tbs_load(const void *binary, size_t size, tbs_module **module);
void *tbs_symbol(tbs_module *module, const char *name);
void tbs_unload(tbs_module *module);                  /* drains every stream first */

/* Run a grid at once (call it from a stream's work).  `body(arguments)` is one thread; it reads its
   ids from the module's tbs_ids.  Order of groups, and of threads between barriers, is shuffled by
   the seed.  A thread that returns while others wait at a barrier is a divergent barrier:
   TBS_LAUNCH, as are a division trap and __builtin_trap(); these do not stick.  Touching
   inaccessible memory: TBS_ILLEGAL_ADDRESS, which sticks to the device.  At most 1024 threads of
   64 KiB of stack in a group.
   `flush` runs with subnormals flushed to zero (both operands and results). */
tbs_status tbs_run(int device, tbs_module *module, void (*body)(void *arguments), void *arguments,
                   const uint32_t groups[3], const uint32_t threads[3], size_t dynamic, int flush);

#ifdef __cplusplus
}
#endif
#endif
