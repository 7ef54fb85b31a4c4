/* Devices, memory, copies. */
#include "hip.h"

#include <string.h>

#include <algorithm>
#include <map>

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int tensorbus_simulator;
int tensorbus_simulator = 1;            /* tells the plugin what it has loaded */

namespace hip {

hipError_t of(tbs_status status) {
    switch (status) {
    case TBS_OK: return hipSuccess;
    case TBS_NO_MEMORY: return hipErrorOutOfMemory;
    case TBS_INVALID: return hipErrorInvalidValue;
    case TBS_COMPILE: return hipErrorInvalidImage;
    case TBS_LAUNCH: return hipErrorLaunchFailure;
    case TBS_ILLEGAL_ADDRESS: return hipErrorIllegalAddress;
    case TBS_LOST: return tbs_forked() ? hipErrorNotInitialized : hipErrorContextIsDestroyed;
    case TBS_NOT_READY: return hipErrorNotReady;
    }
    return hipErrorInvalidValue;
}

static thread_local int chosen = 0;

int devices() { return (int)tbs_option_int("ROCM", "devices", 0, 1); }
int current() { return chosen; }
std::string arch(int device) {
    return tbs_option("ROCM", "arch", device, "gfx90a:sramecc+:xnack-");
}
std::string version() { return tbs_option("ROCM", "version", 0, "6.1"); }

static bool exists(int device) { return device >= 0 && device < devices(); }
static std::string name(int device) {
    return tbs_option("ROCM", "name", device, "AMD Instinct (simulated)");
}
static int64_t memory(int device) {
    return tbs_option_int("ROCM", "memory", device, (int64_t)4 << 30);
}

/* The executor is told how much memory each device has, again if the setting changes. */
static void ready() {
    static std::map<int, int64_t> told;
    tbs_lock();
    for (int k = 0; k < devices(); ++k) {
        auto known = told.find(k);
        if (known != told.end() && known->second == memory(k)) continue;
        told[k] = memory(k);
        tbs_set_memory(k, (size_t)memory(k));
    }
    tbs_unlock();
}

static void put(char *properties, size_t at, const void *data, size_t size) {
    memcpy(properties + at, data, size);
}
template <class T> static void put(char *properties, size_t at, T value) {
    put(properties, at, &value, sizeof value);
}

/* Where hipDeviceProp_t has its fields: HIP 5, and since HIP 6. */
struct Layout {
    size_t size, memory, shared, warp, arch;
};
static const Layout OLD = {792, 256, 264, 276, 396};
#if TBS_HIP_MAJOR >= 6
static const Layout NEW = {1472, 288, 296, 308, 1160};
#endif

static hipError_t properties(void *into, int device, const Layout &layout) {
    if (tbs_forked()) return hipErrorNotInitialized;
    if (!into) return hipErrorInvalidValue;
    if (!exists(device)) return hipErrorInvalidDevice;
    char *all = (char *)into;
    memset(all, 0, layout.size);
    std::string called = name(device), processor = arch(device);
    put(all, 0, called.c_str(), std::min<size_t>(called.size(), 255));
    put(all, layout.memory, (size_t)memory(device));
    put(all, layout.shared, (size_t)65536);
    put(all, layout.warp, 64);
    put(all, layout.arch, processor.c_str(), std::min<size_t>(processor.size(), 255));
    return hipSuccess;
}

}  // namespace hip

using namespace hip;

#define ENTER() do { if (tbs_forked()) return hipErrorNotInitialized; ready(); } while (0)

EXPORT hipError_t hipInit(unsigned) {
    ENTER();
    if (devices()) return hipSuccess;
    return TBS_HIP_MAJOR < 6 ? hipErrorInvalidDevice : hipErrorNoDevice;
}

EXPORT hipError_t hipRuntimeGetVersion(int *number) {
    if (!number) return hipErrorInvalidValue;
    int major = 0, minor = 0;
    sscanf(version().c_str(), "%d.%d", &major, &minor);
    *number = major * 10000000 + minor * 100000 + 40091;
    return hipSuccess;
}

EXPORT hipError_t hipGetDeviceCount(int *count) {
    ENTER();
    if (!count) return hipErrorInvalidValue;
    *count = devices();
    return *count ? hipSuccess : hipErrorNoDevice;
}

EXPORT hipError_t hipGetDevice(int *device) {
    ENTER();
    if (!device) return hipErrorInvalidValue;
    *device = current();
    return hipSuccess;
}

EXPORT hipError_t hipSetDevice(int device) {
    ENTER();
    if (!exists(device)) return hipErrorInvalidDevice;
    chosen = device;
    return hipSuccess;
}

EXPORT hipError_t hipDeviceGetName(char *text, int length, int device) {
    ENTER();
    if (!text || length < 1) return hipErrorInvalidValue;
    if (!exists(device)) return hipErrorInvalidDevice;
    snprintf(text, (size_t)length, "%s", name(device).c_str());
    return hipSuccess;
}

EXPORT hipError_t hipDeviceGetPCIBusId(char *text, int length, int device) {
    ENTER();
    if (!text || length < 13) return hipErrorInvalidValue;
    if (!exists(device)) return hipErrorInvalidDevice;
    snprintf(text, (size_t)length, "0000:%02x:00.0", device + 1);
    return hipSuccess;
}

EXPORT hipError_t hipDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER();
    if (!value) return hipErrorInvalidValue;
    if (!exists(device)) return hipErrorInvalidDevice;
    switch (attribute) {
    case 29: *value = 2147483647; return hipSuccess;    /* MaxGridDimX */
    case 56: *value = 1024; return hipSuccess;          /* MaxThreadsPerBlock */
    case 63: *value = 4; return hipSuccess;             /* MultiprocessorCount */
    case 74: *value = 65536; return hipSuccess;         /* MaxSharedMemoryPerBlock */
    case 87: *value = 64; return hipSuccess;            /* WarpSize */
    }
    return hipErrorInvalidValue;
}

EXPORT hipError_t hipGetDeviceProperties(void *into, int device) {
    return properties(into, device, OLD);
}

#if TBS_HIP_MAJOR >= 6
EXPORT hipError_t hipGetDevicePropertiesR0600(void *into, int device) {
    return properties(into, device, NEW);
}
#endif

/* Each reaches each other. */
EXPORT hipError_t hipDeviceCanAccessPeer(int *answer, int device, int peer) {
    ENTER();
    if (!answer) return hipErrorInvalidValue;
    if (!exists(device) || !exists(peer)) return hipErrorInvalidDevice;
    *answer = device != peer;
    return hipSuccess;
}

/* -- memory --------------------------------------------------------------------------------- */

EXPORT hipError_t hipMemGetInfo(size_t *unused, size_t *total) {
    ENTER();
    if (!unused || !total) return hipErrorInvalidValue;
    return of(tbs_memory_info(current(), unused, total));
}

EXPORT hipError_t hipMalloc(void **address, size_t nbytes) {
    ENTER();
    if (!address) return hipErrorInvalidValue;
    *address = nullptr;
    if (!nbytes) return hipSuccess;
    uint64_t made;
    tbs_status status = tbs_alloc(current(), nbytes, &made);
    if (status == TBS_OK) *address = (void *)made;
    return of(status);
}

EXPORT hipError_t hipHostMalloc(void **address, size_t nbytes, unsigned) {
    ENTER();
    if (!address) return hipErrorInvalidValue;
    *address = nullptr;
    if (tbs_trip("host")) return hipErrorOutOfMemory;
    if (nbytes) *address = aligned_alloc(4096, (nbytes + 4095) / 4096 * 4096);
    return !nbytes || *address ? hipSuccess : hipErrorOutOfMemory;
}

EXPORT hipError_t hipFree(void *address) {
    ENTER();
    if (!address) return hipSuccess;
    uint64_t base;
    size_t size;
    int device;
    if (tbs_range((uint64_t)address, 1, &base, &size, &device) != TBS_OK
        || base != (uint64_t)address)
        return hipErrorInvalidValue;
    tbs_status drained = tbs_drain_device(device), freed = tbs_free(device, base);
    return of(drained != TBS_OK ? drained : freed);
}

namespace {

struct Copy {
    void *to;
    const void *from;
    size_t nbytes;
};

tbs_status run_copy(void *data) {
    Copy *copy = (Copy *)data;
    memcpy(copy->to, copy->from, copy->nbytes);
    return TBS_OK;
}

void drop_copy(void *data) { delete (Copy *)data; }

/* Whether an end of a copy lies where its kind says; kind 4 takes either. */
bool lies(const void *address, size_t nbytes, bool on_device, int kind) {
    uint64_t base;
    size_t size;
    int device;
    bool known = tbs_range((uint64_t)address, nbytes, &base, &size, &device) == TBS_OK;
    if (kind == 4 || on_device == known) return true;
    /* Host memory is nobody's; device memory must be a block's. */
    return false;
}

hipError_t enqueue_copy(void *to, const void *from, size_t nbytes, Stream *stream) {
    tbs_status status = tbs_submit(stream->device, "copy");
    if (status != TBS_OK) return of(status);
    return of(tbs_enqueue(stream->work, run_copy, new Copy{to, from, nbytes}, drop_copy));
}

}  // namespace

/* The host's end is read or written when the stream gets there, as from pinned memory. */
EXPORT hipError_t hipMemcpyAsync(void *to, const void *from, size_t nbytes, int kind,
                                 void *handle) {
    ENTER();
    if (kind < 0 || kind > 4) return hipErrorInvalidMemcpyDirection;
    if (!nbytes) return hipSuccess;
    if (!to || !from) return hipErrorInvalidValue;
    Stream *stream = stream_of(handle);
    if (!stream) return hipErrorInvalidHandle;
    if (!lies(to, nbytes, kind == 1 || kind == 3, kind)
        || !lies(from, nbytes, kind == 2 || kind == 3, kind))
        return hipErrorInvalidValue;
    return enqueue_copy(to, from, nbytes, stream);
}

EXPORT hipError_t hipMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                                     size_t nbytes, void *handle) {
    ENTER();
    if (!exists(to_device) || !exists(from_device)) return hipErrorInvalidDevice;
    if (!nbytes) return hipSuccess;
    Stream *stream = stream_of(handle);
    if (!stream) return hipErrorInvalidHandle;
    uint64_t base;
    size_t size;
    int owner;
    if (tbs_range((uint64_t)to, nbytes, &base, &size, &owner) != TBS_OK || owner != to_device
        || tbs_range((uint64_t)from, nbytes, &base, &size, &owner) != TBS_OK
        || owner != from_device)
        return hipErrorInvalidValue;
    return enqueue_copy(to, from, nbytes, stream);
}
