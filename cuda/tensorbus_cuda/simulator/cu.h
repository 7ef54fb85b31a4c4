/* What the parts of the simulated libcuda share: the driver's types and codes, in our own words so
   that no toolkit is needed, and the objects behind its handles. */
#ifndef TENSORBUS_CU_H
#define TENSORBUS_CU_H

#include "executor.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#define CU_API extern "C" __attribute__((visibility("default")))

/* CUresult, from the driver's documentation. */
enum CUresult : int {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_STUB_LIBRARY = 34,
    CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_UNSUPPORTED_LIMIT = 215,
    CUDA_ERROR_PEER_ACCESS_UNSUPPORTED = 217,
    CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
    CUDA_ERROR_FILE_NOT_FOUND = 301,
    CUDA_ERROR_OPERATING_SYSTEM = 304,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
    CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED = 704,
    CUDA_ERROR_PEER_ACCESS_NOT_ENABLED = 705,
    CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE = 708,
    CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712,
    CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED = 713,
    CUDA_ERROR_LAUNCH_FAILED = 719,
    CUDA_ERROR_NOT_SUPPORTED = 801,
    CUDA_ERROR_UNKNOWN = 999
};

typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;

#pragma GCC visibility push(hidden)

const char FAMILY[] = "CUDA";

struct CUstream_st {
    CUcontext context;
    unsigned flags;                 /* 1: non-blocking */
    tbs_stream *queue;
    uint64_t issued = 0;            /* pieces of work given to it */
    uint64_t ordered = 0;           /* how many of its pieces the legacy stream waits for */
    uint64_t legacy = 0;            /* how many of the legacy stream's pieces it waits for */
};

struct CUevent_st {
    CUcontext context;
    unsigned flags;                 /* 2: no timing */
    bool recorded = false;
    CUstream stream = nullptr;      /* null: it was reached, or its stream is gone */
    uint64_t mark = 0;
    double time = -1;               /* seconds */
};

struct CUctx_st {
    int device;
    bool primary;
    unsigned flags;
    int references = 1;
    CUstream legacy, per_thread;
    std::set<uint64_t> memory;
    std::map<int, size_t> limits;
    std::set<CUcontext> peers;
};

struct CUfunc_st {
    CUmodule module;
    std::string name;
    void (*entry)(void *);
    const uint32_t *info;           /* as grid_kernel.h lays it out */
    size_t shared;                  /* static shared memory, bytes */
    uint32_t dynamic_limit = 0;     /* dynamic shared memory that was asked for with an attribute */
    /* for the launch API of CUDA 3 */
    uint32_t block[3] = {1, 1, 1}, dynamic = 0;
    std::vector<char> parameters;

    uint32_t count() const { return info[0]; }
    uint32_t bytes() const { return info[1]; }
    uint32_t most_threads() const { return info[2]; }
    uint32_t offset(uint32_t k) const { return info[3 + 2 * k]; }
    uint32_t size(uint32_t k) const { return info[4 + 2 * k]; }
};

struct CUmod_st {
    CUcontext context;
    tbs_module *module;
    bool ptx;
    int arch, version;              /* 90; 13000 */
    bool flush;
    std::map<std::string, size_t> shared;       /* static shared memory by kernel */
    std::map<std::string, CUfunction> functions;
};

/* Every handle that was given out and is still good. */
struct Handles {
    std::set<CUcontext> contexts;
    std::set<CUstream> streams;
    std::set<CUevent> events;
    std::set<CUmodule> modules;
    std::set<CUfunction> functions;
    std::map<int, CUcontext> primary;
    std::map<int, unsigned> primary_flags;
    std::map<uint64_t, std::pair<size_t, bool>> pinned;     /* host memory; true: it is ours */
};
Handles &handles();

/* The lock, and whether the driver may be used: put at the start of every function. */
class Call {
public:
    Call();
    ~Call() { tbs_unlock(); }
    Call(const Call &) = delete;
    CUresult status;
};

/* The same, with the current context of this thread and the state of its device. */
class Here : public Call {
public:
    explicit Here(bool even_if_failed = false);
    CUcontext context = nullptr;
    int device = 0;
};

CUcontext &current_context();       /* of this thread; null if there is none */
bool known_device(int device);
int device_count();
int capability(int device);         /* 90 */
int driver_version();               /* 13000 */
int version_option(const char *key, const char *otherwise);

CUresult result_of(tbs_status status);
/* A launch or a copy begins: the failures on demand. */
CUresult submit(int device, const char *kind);

/* -- streams -- */
CUresult find_stream(CUcontext context, CUstream given, CUstream *found);
CUresult enqueue(CUstream stream, tbs_status (*work)(void *), void *data, void (*drop)(void *));
void destroy_stream(CUstream stream);

/* Put any callable on a stream. */
template <class F> CUresult enqueue_call(CUstream stream, F call) {
    return enqueue(
        stream, [](void *data) { return (*(F *)data)(); }, new F(call),
        [](void *data) { delete (F *)data; });
}

/* -- memory -- */
enum class Place { device, pinned, pageable, nowhere };
/* Where [address, address + bytes) lies; `device` is set for Place::device. */
Place place_of(uint64_t address, size_t bytes, int *device = nullptr);
/* For work that touches memory late: makes the device fail if it is no longer there. */
tbs_status still_there(int device, uint64_t address, size_t bytes);
void release_memory(CUcontext context);

/* -- modules -- */
void release_modules(CUcontext context);

/* in cu_device.cpp */
CU_API CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device);

/* What NVRTC makes and the driver loads; a library of the executor follows. */
struct Image {
    char magic[8];                  /* "TBSCUBIN" */
    uint32_t arch, version, flush, unused;
    uint64_t size;                  /* of the library */
    uint64_t unused2;
};
const char IMAGE_MAGIC[] = "TBSCUBIN", PTX_MARK[] = "// tensorbus simulated NVRTC";

#pragma GCC visibility pop
#endif
