/* Streams, events, modules, launches, names of errors. */
#include "hip.h"

#include <string.h>

#include <set>

#define EXPORT extern "C" __attribute__((visibility("default")))
#define ENTER() do { if (tbs_forked()) return hipErrorNotInitialized; } while (0)

namespace hip {

const char MAGIC[8] = "TBSHIP1";

namespace {

/* Handles that are alive: a stale one is refused, not followed. */
template <class T> class Handles {
public:
    void *add(T *made) {
        tbs_lock();
        all.insert(made);
        tbs_unlock();
        return made;
    }
    T *find(void *handle) {
        tbs_lock();
        bool known = all.count((T *)handle) != 0;
        tbs_unlock();
        return known ? (T *)handle : nullptr;
    }
    void remove(T *gone) {
        tbs_lock();
        all.erase(gone);
        tbs_unlock();
    }
private:
    std::set<T *> all;
};

struct Event {
    int device;
    Stream *stream;
    uint64_t mark;                          /* 0: not recorded */
};

struct Module {
    int device;
    tbs_module *loaded;
    bool flush;
};

struct Function {
    Module *module;
    tbs_grid_kernel kernel;
};

Handles<Stream> &streams() { static auto *the = new Handles<Stream>; return *the; }
Handles<Event> &events() { static auto *the = new Handles<Event>; return *the; }
Handles<Module> &modules() { static auto *the = new Handles<Module>; return *the; }
Handles<Function> &functions() { static auto *the = new Handles<Function>; return *the; }

}  // namespace

Stream *stream_of(void *handle) { return streams().find(handle); }

bool runs_on(const std::string &code, const std::string &device) {
    size_t end = code.find(':');
    if (code.substr(0, end) != device.substr(0, device.find(':'))) return false;
    while (end != std::string::npos) {
        size_t next = code.find(':', end + 1);
        std::string feature = code.substr(end + 1, next - end - 1);
        if (feature.empty() || (":" + device + ":").find(":" + feature + ":") == std::string::npos)
            return false;
        end = next;
    }
    return true;
}

}  // namespace hip

using namespace hip;

/* -- streams and events ---------------------------------------------------------------------- */

EXPORT hipError_t hipStreamCreateWithFlags(void **handle, unsigned flags) {
    ENTER();
    if (!handle || flags > 1) return hipErrorInvalidValue;
    *handle = streams().add(new Stream{current(), tbs_stream_new(current())});
    return hipSuccess;
}

EXPORT hipError_t hipStreamSynchronize(void *handle) {
    ENTER();
    Stream *stream = stream_of(handle);
    return stream ? of(tbs_drain(stream->work)) : hipErrorInvalidHandle;
}

EXPORT hipError_t hipEventCreateWithFlags(void **handle, unsigned flags) {
    ENTER();
    if (!handle || flags > 3) return hipErrorInvalidValue;
    *handle = events().add(new Event{current(), nullptr, 0});
    return hipSuccess;
}

EXPORT hipError_t hipEventRecord(void *handle, void *on) {
    ENTER();
    Event *event = events().find(handle);
    Stream *stream = stream_of(on);
    if (!event || !stream || stream->device != event->device) return hipErrorInvalidHandle;
    event->stream = stream;
    event->mark = tbs_mark(stream->work);
    return of(tbs_device_status(stream->device));
}

EXPORT hipError_t hipEventSynchronize(void *handle) {
    ENTER();
    Event *event = events().find(handle);
    if (!event) return hipErrorInvalidHandle;
    return event->mark ? of(tbs_wait(event->stream->work, event->mark)) : hipSuccess;
}

EXPORT hipError_t hipEventQuery(void *handle) {
    ENTER();
    Event *event = events().find(handle);
    if (!event) return hipErrorInvalidHandle;
    return event->mark ? of(tbs_reached(event->stream->work, event->mark)) : hipSuccess;
}

EXPORT hipError_t hipEventDestroy(void *handle) {
    ENTER();
    Event *event = events().find(handle);
    if (!event) return hipErrorInvalidHandle;
    events().remove(event);
    delete event;
    return hipSuccess;
}

namespace {

struct Wait {
    Stream *stream;
    uint64_t mark;
};

/* A failure of the other stream is its own. */
tbs_status run_wait(void *data) {
    Wait *wait = (Wait *)data;
    while (tbs_reached(wait->stream->work, wait->mark) == TBS_NOT_READY) {}
    return TBS_OK;
}

void drop_wait(void *data) { delete (Wait *)data; }

}  // namespace

EXPORT hipError_t hipStreamWaitEvent(void *on, void *handle, unsigned flags) {
    ENTER();
    Event *event = events().find(handle);
    Stream *stream = stream_of(on);
    if (!event || !stream || flags) return hipErrorInvalidHandle;
    if (!event->mark) return hipSuccess;
    return of(tbs_enqueue(stream->work, run_wait, new Wait{event->stream, event->mark}, drop_wait));
}

/* -- modules and launches -------------------------------------------------------------------- */

EXPORT hipError_t hipModuleLoadData(void **handle, const void *image) {
    ENTER();
    if (!handle || !image) return hipErrorInvalidValue;
    tbs_status lost = tbs_device_status(current());
    if (lost != TBS_OK) return of(lost);
    const Code *code = (const Code *)image;
    if (memcmp(code->magic, MAGIC, sizeof MAGIC) != 0) return hipErrorInvalidImage;
    if (!runs_on(code->arch, arch(current()))) return hipErrorNoBinaryForGpu;
    uint64_t size;
    memcpy(&size, code + 1, sizeof size);
    Module *module = new Module{current(), nullptr, code->flush != 0};
    const char *library = (const char *)(code + 1) + sizeof size;
    tbs_status status = tbs_load(library, (size_t)size, &module->loaded);
    if (status != TBS_OK) {
        delete module;
        return status == TBS_INVALID ? hipErrorInvalidImage : of(status);
    }
    *handle = modules().add(module);
    return hipSuccess;
}

EXPORT hipError_t hipModuleUnload(void *handle) {
    ENTER();
    Module *module = modules().find(handle);
    if (!module) return hipErrorInvalidHandle;
    modules().remove(module);
    tbs_unload(module->loaded);
    delete module;
    return hipSuccess;
}

EXPORT hipError_t hipModuleGetFunction(void **handle, void *in, const char *name) {
    ENTER();
    if (!handle || !name) return hipErrorInvalidValue;
    Module *module = modules().find(in);
    if (!module) return hipErrorInvalidHandle;
    Function *function = new Function{module, {}};
    if (tbs_grid_find(module->loaded, name, &function->kernel) != TBS_OK) {
        delete function;
        return hipErrorNotFound;
    }
    *handle = functions().add(function);
    return hipSuccess;
}

EXPORT hipError_t hipModuleLaunchKernel(void *handle, unsigned grid_x, unsigned grid_y,
                                        unsigned grid_z, unsigned block_x, unsigned block_y,
                                        unsigned block_z, unsigned shared, void *on,
                                        void **parameters, void **extra) {
    ENTER();
    Function *function = functions().find(handle);
    Stream *stream = stream_of(on);
    if (!function || !stream || !modules().find(function->module)) return hipErrorInvalidHandle;
    if (stream->device != current()) return hipErrorInvalidHandle;
    if (function->module->device != current()) return hipErrorInvalidDeviceFunction;
    /* HIP counts threads of a grid in 32 bits. */
    if ((uint64_t)grid_x * block_x > 0xffffffffu || (uint64_t)grid_y * block_y > 0xffffffffu
        || (uint64_t)grid_z * block_z > 0xffffffffu || shared > 65536)
        return hipErrorInvalidConfiguration;
    if (parameters && extra) return hipErrorInvalidValue;
    tbs_status status = tbs_submit(stream->device, "launch");
    if (status != TBS_OK) return of(status);
    const uint32_t groups[3] = {grid_x, grid_y, grid_z};
    const uint32_t threads[3] = {block_x, block_y, block_z};
    return of(tbs_grid_launch(stream->work, stream->device, function->module->loaded,
                              &function->kernel, groups, threads, shared, parameters, extra,
                              function->module->flush));
}

/* -- errors ---------------------------------------------------------------------------------- */

namespace {

struct Named {
    int status;
    const char *name, *words;
};

const Named NAMES[] = {
    {0, "hipSuccess", "no error"},
    {1, "hipErrorInvalidValue", "invalid argument"},
    {2, "hipErrorOutOfMemory", "out of memory"},
    {3, "hipErrorNotInitialized", "initialization error"},
    {9, "hipErrorInvalidConfiguration", "invalid configuration argument"},
    {21, "hipErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {98, "hipErrorInvalidDeviceFunction", "invalid device function"},
    {100, "hipErrorNoDevice", "no ROCm-capable device is detected"},
    {101, "hipErrorInvalidDevice", "invalid device ordinal"},
    {200, "hipErrorInvalidImage", "device kernel image is invalid"},
    {209, "hipErrorNoBinaryForGpu", "no kernel image is available for execution on the device"},
    {400, "hipErrorInvalidHandle", "invalid resource handle"},
    {500, "hipErrorNotFound", "named symbol not found"},
    {600, "hipErrorNotReady", "device not ready"},
    {700, "hipErrorIllegalAddress", "an illegal memory access was encountered"},
    {709, "hipErrorContextIsDestroyed", "context is destroyed"},
    {719, "hipErrorLaunchFailure", "unspecified launch failure"},
};

const Named &named(int status) {
    static const Named unknown = {-1, "hipErrorUnknown", "unknown error"};
    for (const Named &one : NAMES)
        if (one.status == status) return one;
    return unknown;
}

}  // namespace

EXPORT const char *hipGetErrorName(int status) { return named(status).name; }
EXPORT const char *hipGetErrorString(int status) { return named(status).words; }
