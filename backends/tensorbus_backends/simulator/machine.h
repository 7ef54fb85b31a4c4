/* The processor's state around a kernel: signals that it raises, floating-point modes. */
#ifndef TENSORBUS_MACHINE_H
#define TENSORBUS_MACHINE_H

#include "fiber.h"

#include <stdint.h>

#pragma GCC visibility push(hidden)
namespace tbs {

struct Trap {
    int signal = 0;             /* 0: none */
    uint64_t address = 0;
};

/* While one lives, a SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGTRAP of this thread ends the kernel:
   `trap` is filled in and `leave` goes on.  Signals of other threads go to the handlers that were there,
   Python's faulthandler among them; all are put back at the end. */
class Watch {
public:
    Watch(Trap *trap, Context *leave);
    ~Watch();
    Watch(const Watch &) = delete;
};

/* Round to nearest, subnormals kept, or flushed as operands and results; restored at the end. */
class FloatMode {
public:
    explicit FloatMode(bool flush);
    ~FloatMode();
    FloatMode(const FloatMode &) = delete;
private:
    uint64_t before;
};

}  // namespace tbs
#pragma GCC visibility pop
#endif
