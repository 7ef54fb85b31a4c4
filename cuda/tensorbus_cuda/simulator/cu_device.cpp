/* Start, devices, their attributes, errors in words. */
#include "cu.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

bool initialized = false;

struct Words {
    int code;
    const char *name, *text;
};

/* The driver's own words; programs compare them. */
const Words WORDS[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {215, "CUDA_ERROR_UNSUPPORTED_LIMIT", "limit is not supported on this architecture"},
    {217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
     "peer access is not supported between these two devices"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {220, "CUDA_ERROR_NVLINK_UNCORRECTABLE",
     "uncorrectable NVLink error detected during the execution"},
    {221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "PTX JIT compiler library not found"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {223, "CUDA_ERROR_JIT_COMPILATION_DISABLED", "PTX JIT compilation was disabled"},
    {226, "CUDA_ERROR_CONTAINED",
     "Invalid access of peer GPU memory over nvlink or a hardware error"},
    {301, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE",
     "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"},
    {705, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", "peer access has not been enabled"},
    {708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE",
     "cannot set while device is active in this process"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {710, "CUDA_ERROR_ASSERT", "device-side assert triggered"},
    {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {714, "CUDA_ERROR_HARDWARE_STACK_ERROR", "hardware stack error"},
    {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {717, "CUDA_ERROR_INVALID_ADDRESS_SPACE",
     "operation not supported on global/shared address space"},
    {718, "CUDA_ERROR_INVALID_PC", "invalid program counter"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {721, "CUDA_ERROR_TENSOR_MEMORY_LEAK", "tensor memory not completely freed"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
     "forward compatibility was attempted on non supported HW"},
    {805, "CUDA_ERROR_MPS_CONNECTION_FAILED",
     "MPS client failed to connect to the MPS control daemon or the MPS server"},
    {810, "CUDA_ERROR_MPS_CLIENT_TERMINATED", "the MPS client has been terminated by the server"},
    {911, "CUDA_ERROR_EXTERNAL_DEVICE", "external device error"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const Words *words_of(int code) {
    for (const Words &words : WORDS)
        if (words.code == code) return &words;
    return nullptr;
}

int copied(char *to, int length, const std::string &text) {
    if (!to || length <= 0) return CUDA_ERROR_INVALID_VALUE;
    snprintf(to, size_t(length), "%s", text.c_str());
    return CUDA_SUCCESS;
}

/* "9.0" as 90. */
int tens(const char *text, int otherwise) {
    int major = 0, minor = 0;
    return sscanf(text, "%d.%d", &major, &minor) >= 1 ? 10 * major + minor : otherwise;
}

int shared_optin(int device) {
    int sm = capability(device);
    if (sm >= 120) return 99 << 10;
    if (sm >= 90) return 227 << 10;
    return sm == 80 || sm == 87 ? 163 << 10 : sm >= 80 ? 99 << 10 : sm >= 75 ? 64 << 10 : 96 << 10;
}

struct Attribute {
    int number, value;
};

/* Where nothing depends on the device: the values of a data-centre GPU. */
const Attribute ATTRIBUTES[] = {
    {1, 1024}, {2, 1024}, {3, 1024}, {4, 64},                   /* threads in a block */
    {5, 2147483647}, {6, 65535}, {7, 65535},                    /* blocks in a grid */
    {8, 49152}, {9, 65536}, {10, 32}, {11, 2147483647},         /* memories, warp, pitch */
    {12, 65536}, {13, 1980000}, {14, 512}, {15, 1},             /* registers, clock in kHz */
    {17, 0}, {18, 0}, {19, 1}, {20, 0},                         /* integrated: no */
    {30, 512}, {31, 1}, {32, 1}, {34, 0}, {35, 0},
    {36, 2619000}, {37, 5120}, {38, 52428800}, {39, 2048}, {40, 3}, {41, 1},
    {50, 0}, {51, 32}, {78, 1}, {79, 1}, {80, 1}, {81, 233472}, {82, 65536}, {83, 1}, {84, 0},
    {85, 0}, {86, 0}, {87, 2}, {88, 0}, {89, 0}, {90, 1}, {91, 0}, {95, 0}, {96, 0},
    {98, 0}, {99, 1}, {100, 0}, {101, 0}, {102, 0}, {106, 32}, {107, 0}, {111, 1024}, {115, 0},
    {120, 0},
};

}  // namespace

Handles &handles() {
    static Handles *const the = new Handles;
    return *the;
}

Call::Call() {
    tbs_lock();
    status = initialized && !tbs_forked() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

int device_count() { return int(tbs_option_int(FAMILY, "devices", 0, 1)); }
bool known_device(int device) { return device >= 0 && device < device_count(); }
int capability(int device) { return tens(tbs_option(FAMILY, "capability", device, "9.0"), 90); }

int version_option(const char *key, const char *otherwise) {
    int major = 0, minor = 0;
    sscanf(tbs_option(FAMILY, key, 0, otherwise), "%d.%d", &major, &minor);
    return 1000 * major + 10 * minor;
}

int driver_version() { return version_option("driver", "13.0"); }

CUresult result_of(tbs_status status) {
    switch (status) {
    case TBS_OK: return CUDA_SUCCESS;
    case TBS_NO_MEMORY: return CUDA_ERROR_OUT_OF_MEMORY;
    case TBS_INVALID: return CUDA_ERROR_INVALID_VALUE;
    case TBS_COMPILE: return CUDA_ERROR_INVALID_PTX;
    case TBS_LAUNCH: return CUDA_ERROR_LAUNCH_FAILED;
    case TBS_ILLEGAL_ADDRESS: return CUDA_ERROR_ILLEGAL_ADDRESS;
    case TBS_NOT_READY: return CUDA_ERROR_NOT_READY;
    case TBS_LOST: break;
    }
    return tbs_forked() ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_UNKNOWN;
}

CUresult submit(int device, const char *kind) {
    if (!tbs_submit(device, kind)) return CUDA_SUCCESS;
    if (tbs_status failed = tbs_device_status(device)) return result_of(failed);
    return strcmp(kind, "launch") ? CUDA_ERROR_OPERATING_SYSTEM
                                  : CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
}

CU_API CUresult cuInit(unsigned flags) {
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (tbs_forked()) return CUDA_ERROR_NOT_INITIALIZED;
    if (int64_t refused = tbs_option_int(FAMILY, "init", 0, 0)) return CUresult(refused);
    if (device_count() < 1) return CUDA_ERROR_NO_DEVICE;
    tbs_lock();
    if (!initialized)
        for (int device = 0; device < device_count(); ++device)
            tbs_set_memory(device,
                           size_t(tbs_option_int(FAMILY, "memory", device, int64_t(4) << 30)));
    initialized = true;
    tbs_unlock();
    return CUDA_SUCCESS;
}

CU_API CUresult cuDriverGetVersion(int *version) {
    if (!version) return CUDA_ERROR_INVALID_VALUE;
    *version = driver_version();
    return CUDA_SUCCESS;
}

CU_API CUresult cuGetErrorName(int error, const char **text) {
    const Words *words = words_of(error);
    if (!text) return CUDA_ERROR_INVALID_VALUE;
    *text = words ? words->name : nullptr;
    return words ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CU_API CUresult cuGetErrorString(int error, const char **text) {
    const Words *words = words_of(error);
    if (!text) return CUDA_ERROR_INVALID_VALUE;
    *text = words ? words->text : nullptr;
    return words ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CU_API CUresult cuDeviceGetCount(int *count) {
    Call call;
    if (call.status) return call.status;
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    *count = device_count();
    return CUDA_SUCCESS;
}

CU_API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    Call call;
    if (call.status) return call.status;
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    if (!known_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

#define DEVICE_CALL(device, pointer)                                  \
    Call call;                                                        \
    if (call.status) return call.status;                              \
    if (!(pointer)) return CUDA_ERROR_INVALID_VALUE;                  \
    if (!known_device(device)) return CUDA_ERROR_INVALID_DEVICE

CU_API CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    DEVICE_CALL(device, name);
    std::string made = "Simulated GPU sm_" + std::to_string(capability(device));
    return CUresult(copied(name, length, tbs_option(FAMILY, "name", device, made.c_str())));
}

CU_API CUresult cuDeviceGetUuid(void *uuid, CUdevice device) {
    DEVICE_CALL(device, uuid);
    memcpy(uuid, "tensorbus-sim-00", 16);
    ((char *)uuid)[15] = char('0' + device);
    return CUDA_SUCCESS;
}
CU_API CUresult cuDeviceGetUuid_v2(void *uuid, CUdevice device) {
    return cuDeviceGetUuid(uuid, device);
}

CU_API CUresult cuDeviceGetPCIBusId(char *id, int length, CUdevice device) {
    DEVICE_CALL(device, id);
    char text[32];
    snprintf(text, sizeof text, "0000:%02X:00.0", device + 1);
    return CUresult(copied(id, length, text));
}

CU_API CUresult cuDeviceGetByPCIBusId(CUdevice *device, const char *id) {
    Call call;
    if (call.status) return call.status;
    unsigned bus = 0;
    if (!device || !id) return CUDA_ERROR_INVALID_VALUE;
    if (sscanf(id, "0000:%x:00.0", &bus) != 1 || !known_device(int(bus) - 1))
        return CUDA_ERROR_INVALID_DEVICE;
    *device = int(bus) - 1;
    return CUDA_SUCCESS;
}

CU_API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    DEVICE_CALL(device, bytes);
    size_t unused;
    return result_of(tbs_memory_info(device, &unused, bytes));
}

CU_API CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    DEVICE_CALL(device, major && minor);
    *major = capability(device) / 10;
    *minor = capability(device) % 10;
    return CUDA_SUCCESS;
}

CU_API CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    DEVICE_CALL(device, value);
    switch (attribute) {
    case 16: *value = int(tbs_option_int(FAMILY, "multiprocessors", device, 8)); break;
    case 33: *value = device + 1; break;
    case 75: *value = capability(device) / 10; break;
    case 76: *value = capability(device) % 10; break;
    case 97: *value = shared_optin(device); break;
    default:
        if (attribute < 1 || attribute > 147) return CUDA_ERROR_INVALID_VALUE;
        *value = 0;
        for (const Attribute &known : ATTRIBUTES)
            if (known.number == attribute) *value = known.value;
    }
    return CUDA_SUCCESS;
}

CU_API CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
    DEVICE_CALL(device, can);
    if (!known_device(peer)) return CUDA_ERROR_INVALID_DEVICE;
    *can = device != peer && tbs_option_int(FAMILY, "peer", 0, 1);
    return CUDA_SUCCESS;
}
