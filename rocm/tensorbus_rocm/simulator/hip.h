/* The part of HIP's interface that is simulated, in declarations of its own: names, numbers and
   layouts are those of the real library, which no header has to be installed for.  TBS_HIP_MAJOR is
   the version whose functions and structures the library has. */
#ifndef TENSORBUS_HIP_H
#define TENSORBUS_HIP_H

#include "executor.h"
#include "grid.h"

#include <string>

typedef enum {
    hipSuccess = 0,
    hipErrorInvalidValue = 1,
    hipErrorOutOfMemory = 2,
    hipErrorNotInitialized = 3,
    hipErrorInvalidConfiguration = 9,
    hipErrorInvalidMemcpyDirection = 21,
    hipErrorInvalidDeviceFunction = 98,
    hipErrorNoDevice = 100,
    hipErrorInvalidDevice = 101,
    hipErrorInvalidImage = 200,
    hipErrorNoBinaryForGpu = 209,
    hipErrorInvalidHandle = 400,
    hipErrorNotFound = 500,
    hipErrorNotReady = 600,
    hipErrorIllegalAddress = 700,
    hipErrorContextIsDestroyed = 709,
    hipErrorLaunchFailure = 719
} hipError_t;

#pragma GCC visibility push(hidden)
namespace hip {

hipError_t of(tbs_status status);
int devices();                          /* setting "devices" */
int current();                          /* device of this thread */
std::string arch(int device);           /* setting "arch" */
std::string version();                  /* setting "version", "6.1" */

/* A code object: this header, then a library for the executor. */
struct Code {
    char magic[8];
    char arch[56];
    uint64_t flush;
};
extern const char MAGIC[8];

/* Whether code for `code` runs on a device: same processor, no feature the other way round. */
bool runs_on(const std::string &code, const std::string &device);

struct Stream {
    int device;
    tbs_stream *work;
};
Stream *stream_of(void *handle);        /* NULL if it is none, or was destroyed */

}  // namespace hip
#pragma GCC visibility pop

#endif
