/* Functions that pycuda's module, or a program that looks around, wants to find: not simulated. */
#include "cu.h"

/* Whatever the arguments: a C function may ignore them. */
#define NOT_SIMULATED(name) \
    CU_API CUresult name(void) { return CUDA_ERROR_NOT_SUPPORTED; }

NOT_SIMULATED(cuArray3DCreate_v2) NOT_SIMULATED(cuArray3DGetDescriptor_v2)
NOT_SIMULATED(cuArrayCreate_v2) NOT_SIMULATED(cuArrayDestroy)
NOT_SIMULATED(cuArrayGetDescriptor_v2) NOT_SIMULATED(cuIpcCloseMemHandle)
NOT_SIMULATED(cuIpcGetEventHandle) NOT_SIMULATED(cuIpcGetMemHandle)
NOT_SIMULATED(cuIpcOpenEventHandle) NOT_SIMULATED(cuIpcOpenMemHandle_v2)
NOT_SIMULATED(cuLinkAddData_v2) NOT_SIMULATED(cuLinkAddFile_v2) NOT_SIMULATED(cuLinkComplete)
NOT_SIMULATED(cuLinkCreate_v2) NOT_SIMULATED(cuLinkDestroy) NOT_SIMULATED(cuMemcpy3DAsync_v2)
NOT_SIMULATED(cuMemcpy3DPeer) NOT_SIMULATED(cuMemcpy3DPeerAsync) NOT_SIMULATED(cuMemcpy3D_v2)
NOT_SIMULATED(cuMemcpyAtoA_v2) NOT_SIMULATED(cuMemcpyAtoD_v2) NOT_SIMULATED(cuMemcpyAtoH_v2)
NOT_SIMULATED(cuMemcpyDtoA_v2) NOT_SIMULATED(cuMemcpyHtoA_v2)
NOT_SIMULATED(cuModuleGetGlobal_v2) NOT_SIMULATED(cuModuleGetSurfRef)
NOT_SIMULATED(cuModuleGetTexRef) NOT_SIMULATED(cuParamSetTexRef)
NOT_SIMULATED(cuProfilerInitialize) NOT_SIMULATED(cuProfilerStart) NOT_SIMULATED(cuProfilerStop)
NOT_SIMULATED(cuStreamAttachMemAsync) NOT_SIMULATED(cuSurfRefGetArray)
NOT_SIMULATED(cuSurfRefSetArray) NOT_SIMULATED(cuTexRefCreate) NOT_SIMULATED(cuTexRefDestroy)
NOT_SIMULATED(cuTexRefGetAddressMode) NOT_SIMULATED(cuTexRefGetAddress_v2)
NOT_SIMULATED(cuTexRefGetArray) NOT_SIMULATED(cuTexRefGetFilterMode)
NOT_SIMULATED(cuTexRefGetFlags) NOT_SIMULATED(cuTexRefGetFormat)
NOT_SIMULATED(cuTexRefSetAddress2D_v3) NOT_SIMULATED(cuTexRefSetAddressMode)
NOT_SIMULATED(cuTexRefSetAddress_v2) NOT_SIMULATED(cuTexRefSetArray)
NOT_SIMULATED(cuTexRefSetFilterMode) NOT_SIMULATED(cuTexRefSetFlags)
NOT_SIMULATED(cuTexRefSetFormat) NOT_SIMULATED(cuMemAllocAsync) NOT_SIMULATED(cuMemFreeAsync)
NOT_SIMULATED(cuMemPoolCreate) NOT_SIMULATED(cuDeviceGetDefaultMemPool)
NOT_SIMULATED(cuStreamBeginCapture_v2) NOT_SIMULATED(cuStreamEndCapture)
NOT_SIMULATED(cuGraphCreate) NOT_SIMULATED(cuPointerGetAttributes)
NOT_SIMULATED(cuLaunchCooperativeKernel) NOT_SIMULATED(cuLibraryLoadData)
NOT_SIMULATED(cuTexRefSetAddress2D_v2) NOT_SIMULATED(cuIpcOpenMemHandle)
NOT_SIMULATED(cuLinkCreate) NOT_SIMULATED(cuDeviceGetLuid)

#include <dlfcn.h>
#include <string.h>

namespace {

/* The driver's table of names hides the suffixes; the newest that a program's headers know of. */
void *newest(const std::string &name, int version) {
    for (const char *suffix : {"_v4", "_v2", ""}) {
        if (strcmp(suffix, "_v4") == 0 && version < 13000) continue;
        Dl_info self;
        if (!dladdr((const void *)&newest, &self)) return nullptr;
        void *library = dlopen(self.dli_fname, RTLD_NOLOAD | RTLD_LAZY);
        if (!library) return nullptr;
        void *found = dlsym(library, (name + suffix).c_str());
        dlclose(library);
        if (found) return found;
    }
    return nullptr;
}

}  // namespace

CU_API CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t,
                                    int *status) {
    if (!name || !function) return CUDA_ERROR_INVALID_VALUE;
    *function = newest(name, version);
    if (status) *status = *function ? 0 : 1;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CU_API CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}
