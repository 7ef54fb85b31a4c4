/* In front of every simulated kernel: ids, barrier, shared memory.  No header is included, because
   the compiler's start is most of the time that a small kernel takes. */
typedef __SIZE_TYPE__ tbs_size;
typedef __UINT32_TYPE__ tbs_u32;

struct tbs_ids {    /* as in executor.h */
    tbs_u32 thread[3], group[3], threads[3], groups[3];
    void (*barrier)(void);
    void *dynamic;
};

static tbs_ids *tbs_id;

#ifdef __APPLE__
#define TBS_SHARED static __attribute__((section("__DATA,tb_shared"), used, aligned(16)))
extern "C" char tbs_shared_start[] __asm__("section$start$__DATA$tb_shared");
extern "C" char tbs_shared_stop[] __asm__("section$end$__DATA$tb_shared");
#else
#define TBS_SHARED static __attribute__((section("tb_shared"), used, aligned(16)))
/* Weak: a kernel without shared memory has no such section. */
extern "C" char tbs_shared_start[] __asm__("__start_tb_shared")
    __attribute__((weak, visibility("hidden")));
extern "C" char tbs_shared_stop[] __asm__("__stop_tb_shared")
    __attribute__((weak, visibility("hidden")));
#endif

extern "C" __attribute__((visibility("default")))
void tbs_bind(tbs_ids *ids, void **shared, tbs_size *shared_bytes) {
    tbs_id = ids;
    *shared = tbs_shared_start;
    *shared_bytes = tbs_size(tbs_shared_stop - tbs_shared_start);
}

static inline __attribute__((always_inline)) void tbs_barrier() { tbs_id->barrier(); }
