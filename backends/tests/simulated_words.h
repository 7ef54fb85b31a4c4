/* Words of the test family, put in front of its kernels. "quoted" \ ??= */
#define THREAD (tbs_id->thread[0])
#define THREADS (tbs_id->threads[0])
#define GROUP (tbs_id->group[0])
#define KERNEL extern "C" __attribute__((visibility("default"))) void
