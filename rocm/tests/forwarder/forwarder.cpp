/* libamdhip64 and hiprtc over NVIDIA's driver and NVRTC: a library for tests only.

   It exports the functions that the rocm plugin calls and passes them on, so that the plugin's host
   code and its HIP kernels run on an NVIDIA GPU.  It is no HIP: one architecture name is invented
   ("gfxc90" stands for sm_90), there is no rocBLAS, and only what the plugin uses is here.

   Both libraries are loaded at the first call: TENSORBUS_FORWARD_CUDA and TENSORBUS_FORWARD_NVRTC
   name them, else libcuda.so.1 and libnvrtc.so.13, 12 and 11 are tried.  Built with OVER_SIMULATOR
   it takes a simulated libcuda only and exports the mark of one; without, it refuses such. */

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char tensorbus_forwarder[] = "HIP 6.0 over the CUDA driver, 1";

#ifdef OVER_SIMULATOR
EXPORT const int tensorbus_simulator = 1;
constexpr bool OVER_SIMULATOR_BUILD = true;
#else
constexpr bool OVER_SIMULATOR_BUILD = false;
#endif

namespace {

/* -- status codes: hip_runtime_api.h numbers most of them as cuda.h does ---------------------- */

enum { OK = 0, INVALID_VALUE = 1, NO_DEVICE = 100, INVALID_DEVICE = 101, NOT_SUPPORTED = 801 };
enum { INSUFFICIENT_DRIVER = 35, INVALID_KERNEL_FILE = 218, LAUNCH_FAILURE = 719, UNKNOWN = 999 };

struct Word { int code; const char *name, *text; };
const Word WORDS[] = {
    {OK, "hipSuccess", "no error"},
    {INVALID_VALUE, "hipErrorInvalidValue", "invalid argument"},
    {2, "hipErrorOutOfMemory", "out of memory"},
    {3, "hipErrorNotInitialized", "initialization error"},
    {4, "hipErrorDeinitialized", "driver shutting down"},
    {INSUFFICIENT_DRIVER, "hipErrorInsufficientDriver", "driver version is insufficient"},
    {NO_DEVICE, "hipErrorNoDevice", "no device is available"},
    {INVALID_DEVICE, "hipErrorInvalidDevice", "invalid device ordinal"},
    {200, "hipErrorInvalidImage", "device kernel image is invalid"},
    {201, "hipErrorInvalidContext", "invalid device context"},
    {209, "hipErrorNoBinaryForGpu", "no kernel image is available for the device"},
    {214, "hipErrorECCNotCorrectable", "uncorrectable ECC error encountered"},
    {INVALID_KERNEL_FILE, "hipErrorInvalidKernelFile", "invalid kernel file"},
    {304, "hipErrorOperatingSystem", "OS call failed"},
    {400, "hipErrorInvalidHandle", "invalid resource handle"},
    {401, "hipErrorIllegalState", "operation cannot be performed in the present state"},
    {500, "hipErrorNotFound", "named symbol not found"},
    {600, "hipErrorNotReady", "device not ready"},
    {700, "hipErrorIllegalAddress", "an illegal memory access was encountered"},
    {701, "hipErrorLaunchOutOfResources", "too many resources requested for launch"},
    {702, "hipErrorLaunchTimeOut", "the launch timed out and was terminated"},
    {709, "hipErrorContextIsDestroyed", "context is destroyed"},
    {710, "hipErrorAssert", "device-side assert triggered"},
    {LAUNCH_FAILURE, "hipErrorLaunchFailure", "unspecified launch failure"},
    {NOT_SUPPORTED, "hipErrorNotSupported", "operation not supported"},
    {UNKNOWN, "hipErrorUnknown", "unknown error"},
};

const Word *word(int code) {
    for (const Word &w : WORDS)
        if (w.code == code) return &w;
    return nullptr;
}

/* A CUresult as a hipError_t: the same number where HIP has it, else the nearest of HIP's. */
int hip(int result) {
    if (word(result)) return result;
    switch (result) {
        case 34: case 802: case 803: case 804: return INSUFFICIENT_DRIVER;
        case 222: case 223: return INVALID_KERNEL_FILE;   /* PTX that the driver cannot compile */
        case 714: case 715: case 716: case 717: case 718: return LAUNCH_FAILURE;
        default: return UNKNOWN;
    }
}

/* -- the libraries ---------------------------------------------------------------------------- */

typedef uint64_t Address;
typedef void *Handle;

struct Driver {
    int (*init)(unsigned);
    int (*count)(int *);
    int (*device)(int *, int);
    int (*name)(char *, int, int);
    int (*pci)(char *, int, int);
    int (*attribute)(int *, int, int);
    int (*retain)(Handle *, int);
    int (*set_current)(Handle);
    int (*memory)(size_t *, size_t *);
    int (*allocate)(Address *, size_t);
    int (*pinned)(void **, size_t, unsigned);
    int (*release)(Address);
    int (*to_device)(Address, const void *, size_t, Handle);
    int (*to_host)(void *, Address, size_t, Handle);
    int (*on_device)(Address, Address, size_t, Handle);
    int (*reaches)(int *, int, int);
    int (*peer)(Address, Handle, Address, Handle, size_t, Handle);
    int (*stream)(Handle *, unsigned);
    int (*stream_wait)(Handle);
    int (*stream_wait_event)(Handle, Handle, unsigned);
    int (*event)(Handle *, unsigned);
    int (*event_record)(Handle, Handle);
    int (*event_wait)(Handle);
    int (*event_query)(Handle);
    int (*event_destroy)(Handle);
    int (*load)(Handle *, const void *);
    int (*unload)(Handle);
    int (*function)(Handle *, Handle, const char *);
    int (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                  Handle, void **, void **);
};

struct Nvrtc {
    int (*version)(int *, int *);
    const char *(*words)(int);
    int (*create)(Handle *, const char *, const char *, int, const char *const *,
                  const char *const *);
    int (*destroy)(Handle *);
    int (*compile)(Handle, int, const char *const *);
    int (*log_size)(Handle, size_t *);
    int (*log)(Handle, char *);
    int (*cubin_size)(Handle, size_t *);
    int (*cubin)(Handle, char *);
    int (*ptx_size)(Handle, size_t *);
    int (*ptx)(Handle, char *);
    int (*arch_count)(int *);
    int (*archs)(int *);
};

Handle open_first(const char *variable, const std::vector<const char *> &names) {
    if (const char *chosen = getenv(variable)) return dlopen(chosen, RTLD_NOW | RTLD_GLOBAL);
    for (const char *name : names)
        if (Handle found = dlopen(name, RTLD_NOW | RTLD_GLOBAL)) return found;
    return nullptr;
}

template <class F> bool bind(Handle library, F &target, const char *name) {
    target = reinterpret_cast<F>(dlsym(library, name));
    return target != nullptr;
}

bool simulated(Handle library) {
    return dlsym(library, "tensorbus_simulator") || dlsym(library, "tbs_arm");
}

Driver cu;
std::vector<Handle> contexts;

/* 0 if libcuda is loaded, whole, and started. */
int start() {
    static std::once_flag once;
    static int status;
    std::call_once(once, [] {
        Handle lib = open_first("TENSORBUS_FORWARD_CUDA", {"libcuda.so.1"});
        if (!lib || simulated(lib) != OVER_SIMULATOR_BUILD) {
            status = NO_DEVICE;
            return;
        }
        const bool whole = bind(lib, cu.init, "cuInit") &&
            bind(lib, cu.count, "cuDeviceGetCount") && bind(lib, cu.device, "cuDeviceGet") &&
            bind(lib, cu.name, "cuDeviceGetName") && bind(lib, cu.pci, "cuDeviceGetPCIBusId") &&
            bind(lib, cu.attribute, "cuDeviceGetAttribute") &&
            bind(lib, cu.retain, "cuDevicePrimaryCtxRetain") &&
            bind(lib, cu.set_current, "cuCtxSetCurrent") &&
            bind(lib, cu.memory, "cuMemGetInfo_v2") && bind(lib, cu.allocate, "cuMemAlloc_v2") &&
            bind(lib, cu.pinned, "cuMemHostAlloc") &&
            bind(lib, cu.release, "cuMemFree_v2") &&
            bind(lib, cu.to_device, "cuMemcpyHtoDAsync_v2") &&
            bind(lib, cu.to_host, "cuMemcpyDtoHAsync_v2") &&
            bind(lib, cu.on_device, "cuMemcpyDtoDAsync_v2") &&
            bind(lib, cu.reaches, "cuDeviceCanAccessPeer") &&
            bind(lib, cu.peer, "cuMemcpyPeerAsync") && bind(lib, cu.stream, "cuStreamCreate") &&
            bind(lib, cu.stream_wait, "cuStreamSynchronize") &&
            bind(lib, cu.stream_wait_event, "cuStreamWaitEvent") &&
            bind(lib, cu.event, "cuEventCreate") && bind(lib, cu.event_record, "cuEventRecord") &&
            bind(lib, cu.event_wait, "cuEventSynchronize") &&
            bind(lib, cu.event_query, "cuEventQuery") &&
            bind(lib, cu.event_destroy, "cuEventDestroy_v2") &&
            bind(lib, cu.load, "cuModuleLoadData") && bind(lib, cu.unload, "cuModuleUnload") &&
            bind(lib, cu.function, "cuModuleGetFunction") &&
            bind(lib, cu.launch, "cuLaunchKernel");
        status = whole ? hip(cu.init(0)) : INSUFFICIENT_DRIVER;
        int number = 0;
        if (status == OK) status = hip(cu.count(&number));
        contexts.assign(number, nullptr);
    });
    return status;
}

thread_local int current;
std::mutex retaining;

/* Make the primary context of a device the thread's own: another library may have set its own. */
int enter(int index) {
    if (const int status = start()) return status;
    if (index < 0 || size_t(index) >= contexts.size()) return INVALID_DEVICE;
    std::lock_guard<std::mutex> hold(retaining);
    int device, status = 0;
    if (!contexts[index]) {
        status = cu.device(&device, index);
        if (status == 0) status = cu.retain(&contexts[index], device);
    }
    return hip(status ? status : cu.set_current(contexts[index]));
}

Nvrtc nv;

bool compiler() {
    static std::once_flag once;
    static bool whole;
    std::call_once(once, [] {
        Handle lib = open_first("TENSORBUS_FORWARD_NVRTC",
                                {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11"});
        whole = lib && bind(lib, nv.version, "nvrtcVersion") &&
            bind(lib, nv.words, "nvrtcGetErrorString") &&
            bind(lib, nv.create, "nvrtcCreateProgram") &&
            bind(lib, nv.destroy, "nvrtcDestroyProgram") &&
            bind(lib, nv.compile, "nvrtcCompileProgram") &&
            bind(lib, nv.log_size, "nvrtcGetProgramLogSize") &&
            bind(lib, nv.log, "nvrtcGetProgramLog") &&
            bind(lib, nv.cubin_size, "nvrtcGetCUBINSize") && bind(lib, nv.cubin, "nvrtcGetCUBIN") &&
            bind(lib, nv.ptx_size, "nvrtcGetPTXSize") && bind(lib, nv.ptx, "nvrtcGetPTX") &&
            bind(lib, nv.arch_count, "nvrtcGetNumSupportedArchs") &&
            bind(lib, nv.archs, "nvrtcGetSupportedArchs");
    });
    return whole;
}

/* "--gpu-architecture=sm_90" for "gfxc90"; PTX of the newest older one if NVRTC has no sm_90. */
std::string architecture(const std::string &gfx, bool *ptx) {
    const int own = gfx.rfind("gfxc", 0) == 0 ? atoi(gfx.c_str() + 4) : 0;
    int count = 0, best = 0;
    nv.arch_count(&count);
    std::vector<int> known(count + 1);
    nv.archs(known.data());
    known.resize(count);
    for (const int arch : known)
        if (arch <= own && arch > best) best = arch;
    *ptx = best != own;
    return std::string("--gpu-architecture=") + (*ptx ? "compute_" : "sm_") + std::to_string(best);
}

struct Program {
    Handle handle;
    bool ptx;
};

enum { HIPRTC_INVALID_INPUT = 3, HIPRTC_INVALID_OPTION = 5, HIPRTC_INTERNAL_ERROR = 11 };

/* What hipcc's options are called by NVRTC; nullptr for those that have no meaning there. */
const char *option(const std::string &given) {
    if (given == "-ffp-contract=off") return "--fmad=false";
    if (given == "-fno-gpu-flush-denormals-to-zero") return "--ftz=false";
    if (given == "-fno-fast-math") return "--prec-div=true";
    if (given == "-fhip-fp32-correctly-rounded-divide-sqrt") return "--prec-sqrt=true";
    if (given == "-std=c++17") return "--std=c++17";
    return nullptr;
}

bool ignored(const std::string &given) {
    return given[0] == '-' && (given[1] == 'O' || given[1] == 'W');
}

}  // namespace

/* -- devices ---------------------------------------------------------------------------------- */

EXPORT int hipInit(unsigned) { return start(); }

EXPORT int hipRuntimeGetVersion(int *version) {
    /* not the same for both, lest they share what the plugin caches */
    *version = OVER_SIMULATOR_BUILD ? 60000002 : 60000001;
    return OK;
}

EXPORT const char *hipGetErrorName(int status) {
    const Word *found = word(status);
    return found ? found->name : "hipErrorUnknown";
}

EXPORT const char *hipGetErrorString(int status) {
    const Word *found = word(status);
    return found ? found->text : "unknown error";
}

EXPORT int hipGetDeviceCount(int *count) {
    *count = 0;
    if (const int status = start()) return status;
    *count = int(contexts.size());
    return *count ? OK : NO_DEVICE;
}

EXPORT int hipGetDevice(int *device) {
    *device = current;
    return start();
}

EXPORT int hipSetDevice(int device) {
    const int status = enter(device);
    if (status == OK) current = device;
    return status;
}

/* Names and attributes need no context, and device handles are their own numbers' to find. */
static int device_of(int *device, int index) {
    const int status = start();
    return status ? status : hip(cu.device(device, index));
}

EXPORT int hipDeviceGetName(char *name, int length, int index) {
    int device, status = device_of(&device, index);
    return status ? status : hip(cu.name(name, length, device));
}

EXPORT int hipDeviceGetPCIBusId(char *name, int length, int index) {
    int device, status = device_of(&device, index);
    return status ? status : hip(cu.pci(name, length, device));
}

EXPORT int hipDeviceGetAttribute(int *value, int attribute, int index) {
    /* hipDeviceAttribute_t, CUdevice_attribute: wave, memory of a group, units, threads of a group,
       blocks along x */
    static const int pairs[][2] = {{87, 10}, {74, 8}, {63, 16}, {56, 1}, {29, 5}};
    int device, status = device_of(&device, index);
    if (status) return status;
    for (const auto &pair : pairs)
        if (pair[0] == attribute) return hip(cu.attribute(value, pair[1], device));
    return INVALID_VALUE;
}

EXPORT int hipGetDevicePropertiesR0600(void *properties, int index) {
    /* hipDeviceProp_t of HIP 6: 1472 bytes, name first, gcnArchName at 1160 */
    enum { SIZE = 1472, NAME = 256, ARCH = 1160 };
    char *bytes = static_cast<char *>(properties);
    int device, major, minor, status = device_of(&device, index);
    if (status) return status;
    memset(bytes, 0, SIZE);
    status = cu.name(bytes, NAME, device);
    if (status == 0) status = cu.attribute(&major, 75, device);
    if (status == 0) status = cu.attribute(&minor, 76, device);
    if (status == 0) snprintf(bytes + ARCH, NAME, "gfxc%d", 10 * major + minor);
    return hip(status);
}

EXPORT int hipMemGetInfo(size_t *free, size_t *total) {
    const int status = enter(current);
    return status ? status : hip(cu.memory(free, total));
}

/* -- memory ----------------------------------------------------------------------------------- */

EXPORT int hipMalloc(void **address, size_t nbytes) {
    Address made = 0;
    int status = enter(current);
    if (status == OK && nbytes) status = hip(cu.allocate(&made, nbytes));
    *address = reinterpret_cast<void *>(made);
    return status;
}

EXPORT int hipHostMalloc(void **address, size_t nbytes, unsigned flags) {
    *address = nullptr;
    const int status = enter(current);
    return status || !nbytes ? status : hip(cu.pinned(address, nbytes, flags));
}

EXPORT int hipFree(void *address) {
    const int status = enter(current);
    return status || !address ? status : hip(cu.release(Address(address)));
}

EXPORT int hipMemcpyAsync(void *to, const void *from, size_t nbytes, int kind, void *stream) {
    if (const int status = enter(current)) return status;
    switch (kind) {
        case 1: return hip(cu.to_device(Address(to), from, nbytes, stream));
        case 2: return hip(cu.to_host(to, Address(from), nbytes, stream));
        case 3: return hip(cu.on_device(Address(to), Address(from), nbytes, stream));
        default: return INVALID_VALUE;
    }
}

EXPORT int hipDeviceCanAccessPeer(int *answer, int index, int other) {
    int from, to, status = device_of(&from, index);
    if (status == OK) status = device_of(&to, other);
    return status ? status : hip(cu.reaches(answer, from, to));
}

EXPORT int hipMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                              size_t nbytes, void *stream) {
    int status = enter(to_device);
    if (status == OK) status = enter(from_device);
    if (status == OK) status = enter(current);
    return status ? status
                  : hip(cu.peer(Address(to), contexts[to_device], Address(from),
                                contexts[from_device], nbytes, stream));
}

/* -- streams and events ----------------------------------------------------------------------- */

EXPORT int hipStreamCreateWithFlags(void **stream, unsigned flags) {
    const int status = enter(current);
    return status ? status : hip(cu.stream(stream, flags));
}

EXPORT int hipStreamSynchronize(void *stream) {
    const int status = enter(current);
    return status ? status : hip(cu.stream_wait(stream));
}

EXPORT int hipStreamWaitEvent(void *stream, void *event, unsigned flags) {
    const int status = enter(current);
    return status ? status : hip(cu.stream_wait_event(stream, event, flags));
}

EXPORT int hipEventCreateWithFlags(void **event, unsigned flags) {
    const int status = enter(current);
    return status ? status : hip(cu.event(event, flags));
}

EXPORT int hipEventRecord(void *event, void *stream) {
    const int status = enter(current);
    return status ? status : hip(cu.event_record(event, stream));
}

EXPORT int hipEventSynchronize(void *event) {
    const int status = enter(current);
    return status ? status : hip(cu.event_wait(event));
}

EXPORT int hipEventQuery(void *event) {
    const int status = enter(current);
    return status ? status : hip(cu.event_query(event));
}

EXPORT int hipEventDestroy(void *event) {
    const int status = enter(current);
    return status ? status : hip(cu.event_destroy(event));
}

/* -- programs and launches -------------------------------------------------------------------- */

EXPORT int hipModuleLoadData(void **module, const void *image) {
    const int status = enter(current);
    return status ? status : hip(cu.load(module, image));
}

EXPORT int hipModuleUnload(void *module) {
    const int status = enter(current);
    return status ? status : hip(cu.unload(module));
}

EXPORT int hipModuleGetFunction(void **function, void *module, const char *name) {
    const int status = enter(current);
    return status ? status : hip(cu.function(function, module, name));
}

EXPORT int hipModuleLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                 unsigned block_x, unsigned block_y, unsigned block_z,
                                 unsigned shared, void *stream, void **parameters, void **extra) {
    if (const int status = enter(current)) return status;
    /* Arguments lie in one block, at the same places in both worlds.  Its marks are 1: block,
       2: size, and 3 for the end, which CUDA spells 0. */
    void *marks[5];
    if (extra) {
        memcpy(marks, extra, sizeof marks);
        if (Address(marks[0]) != 1 || Address(marks[2]) != 2 || Address(marks[4]) != 3)
            return INVALID_VALUE;
        marks[4] = nullptr;
    }
    return hip(cu.launch(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream,
                         parameters, extra ? marks : nullptr));
}

/* -- hiprtc: its status codes are NVRTC's ----------------------------------------------------- */

EXPORT int hiprtcVersion(int *major, int *minor) {
    return compiler() ? nv.version(major, minor) : HIPRTC_INTERNAL_ERROR;
}

EXPORT const char *hiprtcGetErrorString(int status) {
    return compiler() ? nv.words(status) : "NVRTC cannot be loaded";
}

EXPORT int hiprtcCreateProgram(void **program, const char *source, const char *name, int headers,
                               const char **texts, const char **names) {
    if (!compiler()) return HIPRTC_INTERNAL_ERROR;
    Program *made = new Program{nullptr, false};
    const int status = nv.create(&made->handle, source, name, headers, texts, names);
    if (status) {
        delete made;
        return status;
    }
    *program = made;
    return OK;
}

EXPORT int hiprtcDestroyProgram(void **program) {
    Program *made = static_cast<Program *>(*program);
    if (!made) return HIPRTC_INVALID_INPUT;
    const int status = nv.destroy(&made->handle);
    delete made;
    *program = nullptr;
    return status;
}

EXPORT int hiprtcCompileProgram(void *program, int count, const char **options) {
    Program *made = static_cast<Program *>(program);
    std::vector<std::string> mapped = {"--device-as-default-execution-space", "--disable-warnings"};
    for (int k = 0; k < count; ++k) {
        const std::string given = options[k];
        static const std::string target = "--offload-arch=";
        if (given.rfind(target, 0) == 0)
            mapped.push_back(architecture(given.substr(target.size()), &made->ptx));
        else if (const char *known = option(given))
            mapped.push_back(known);
        else if (!ignored(given))
            return HIPRTC_INVALID_OPTION;
    }
    std::vector<const char *> pointers;
    for (const std::string &text : mapped) pointers.push_back(text.c_str());
    return nv.compile(made->handle, int(pointers.size()), pointers.data());
}

EXPORT int hiprtcGetProgramLogSize(void *program, size_t *size) {
    return nv.log_size(static_cast<Program *>(program)->handle, size);
}

EXPORT int hiprtcGetProgramLog(void *program, char *log) {
    return nv.log(static_cast<Program *>(program)->handle, log);
}

EXPORT int hiprtcGetCodeSize(void *program, size_t *size) {
    const Program *made = static_cast<Program *>(program);
    return (made->ptx ? nv.ptx_size : nv.cubin_size)(made->handle, size);
}

EXPORT int hiprtcGetCode(void *program, char *code) {
    const Program *made = static_cast<Program *>(program);
    return (made->ptx ? nv.ptx : nv.cubin)(made->handle, code);
}
