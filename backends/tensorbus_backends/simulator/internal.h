/* What the parts of the executor share and a driver does not see. */
#ifndef TENSORBUS_INTERNAL_H
#define TENSORBUS_INTERNAL_H

#include "executor.h"

#include <stdarg.h>
#include <stdio.h>

#include <mutex>
#include <string>

/* Two simulated drivers in one process must not share what is inside. */
#pragma GCC visibility push(hidden)
namespace tbs {

std::recursive_mutex &mutex();

struct Lock {
    std::lock_guard<std::recursive_mutex> guard{mutex()};
};

/* Remember a printf-style message for tbs_message and return `status`. */
tbs_status fail(tbs_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
tbs_status forked();                        /* TBS_LOST with the message that says why */

uint64_t seed();                            /* TENSORBUS_SIMULATE_SEED */
double now();                               /* seconds, monotonic */

/* TBS_ILLEGAL_ADDRESS, which then sticks, if something wrote beside a block of the device. */
tbs_status check_canaries(int device);
/* In words, what lies at an address: "8 bytes behind a block of 400 bytes". */
std::string describe(uint64_t address);

void drop_waiting(int device);              /* work of all streams of a device */
void drain_everything();

}  // namespace tbs
#pragma GCC visibility pop

#define TBS_REFUSE_FORKED(answer) do { if (tbs_forked()) { tbs::forked(); return answer; } } while (0)

#endif
