/* The smallest family of simulated drivers: what the executor's tests need beyond executor.h. */
#include "executor.h"

#include <stdlib.h>
#include <string.h>

namespace {

struct Launch {
    tbs_module *module;
    void (*body)(void *);
    void *arguments;
    uint32_t threads;
};

tbs_status launch(void *data) {
    Launch *of = (Launch *)data;
    const uint32_t groups[3] = {1, 1, 1}, threads[3] = {of->threads, 1, 1};
    return tbs_run(0, of->module, of->body, of->arguments, groups, threads, 0, 0);
}

struct Store {
    int *target;
    int value;
    int *dropped;
};

tbs_status store(void *data) {
    Store *of = (Store *)data;
    *of->target = *of->target * 10 + of->value;
    return TBS_OK;
}

void drop_store(void *data) {
    ++*((Store *)data)->dropped;
    free(data);
}

}  // namespace

extern "C" {

tbs_status probe_launch(tbs_stream *stream, tbs_module *module, void *body, void *arguments,
                        uint32_t threads) {
    if (tbs_status status = tbs_submit(0, "launch")) return status;
    Launch *data = (Launch *)malloc(sizeof(Launch));
    *data = {module, (void (*)(void *))body, arguments, threads};
    return tbs_enqueue(stream, launch, data, free);
}

/* target = 10 * target + digit, later; *dropped counts what was freed. */
tbs_status probe_digit(tbs_stream *stream, int *target, int digit, int *dropped) {
    if (tbs_status status = tbs_submit(0, "copy")) return status;
    Store *data = (Store *)malloc(sizeof(Store));
    *data = {target, digit, dropped};
    return tbs_enqueue(stream, store, data, drop_store);
}

unsigned probe_mode(void) {
#ifdef __x86_64__
    unsigned mode;
    asm volatile("stmxcsr %0" : "=m"(mode));
    return mode;
#elif defined(__aarch64__)
    unsigned long mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
#else
    return 0;
#endif
}

void probe_set_mode(unsigned value) {
#ifdef __x86_64__
    asm volatile("ldmxcsr %0" : : "m"(value));
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"((unsigned long)value));
#endif
}

const char *probe_words(void) {
    extern const char tbs_text_simulated_words[];
    return tbs_text_simulated_words;
}

}
