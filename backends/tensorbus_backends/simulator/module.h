/* A kernel library that has been loaded. */
#ifndef TENSORBUS_MODULE_H
#define TENSORBUS_MODULE_H

#include "executor.h"

struct tbs_module {
    void *library;
    void *shared;               /* its static shared memory */
    size_t shared_bytes;
};

#pragma GCC visibility push(hidden)
namespace tbs {
extern tbs_ids ids;             /* one for all modules, since one launch runs at a time */
}
#pragma GCC visibility pop
#endif
