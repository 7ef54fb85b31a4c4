/* Contexts: primary and own, and the stack of them that each thread has. */
#include "cu.h"

namespace {

std::vector<CUcontext> &stack() {
    static thread_local std::vector<CUcontext> the;
    return the;
}

CUstream new_stream(CUcontext context, unsigned flags) {
    CUstream stream = new CUstream_st{context, flags, tbs_stream_new(context->device)};
    handles().streams.insert(stream);
    return stream;
}

CUcontext new_context(int device, bool primary, unsigned flags) {
    CUcontext context = new CUctx_st;
    context->device = device;
    context->primary = primary;
    context->flags = flags;
    context->limits = {{0, 1024}, {1, 1 << 20}, {2, 8 << 20}, {5, 64}, {6, 0}};
    handles().contexts.insert(context);
    context->legacy = new_stream(context, 0);
    context->per_thread = new_stream(context, 0);
    return context;
}

/* Ends all that lives in a context; its handle is good no longer. */
void destroy(CUcontext context) {
    Handles &all = handles();
    int device = context->device;
    tbs_drain_device(device);
    for (auto at = all.events.begin(); at != all.events.end();) {
        CUevent event = *at++;
        if (event->context != context) continue;
        all.events.erase(event);
        delete event;
    }
    for (auto at = all.streams.begin(); at != all.streams.end();) {
        CUstream stream = *at++;
        if (stream->context == context) destroy_stream(stream);
    }
    release_modules(context);
    release_memory(context);
    for (CUcontext other : all.contexts) other->peers.erase(context);
    all.contexts.erase(context);
    /* A fault ends a context and not the device, unless the device itself is gone. */
    if (tbs_device_status(device) != TBS_LOST) tbs_device_reset(device);
}

bool good(CUcontext context) { return handles().contexts.count(context) != 0; }

}  // namespace

CUcontext &current_context() {
    static thread_local CUcontext current;
    current = stack().empty() ? nullptr : stack().back();
    return current;
}

Here::Here(bool even_if_failed) {
    if (status) return;
    context = current_context();
    if (!context || !good(context)) {
        status = CUDA_ERROR_INVALID_CONTEXT;
        return;
    }
    device = context->device;
    if (!even_if_failed) status = result_of(tbs_device_status(device));
}

CU_API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    Call call;
    if (call.status) return call.status;
    if (!context) return CUDA_ERROR_INVALID_VALUE;
    if (!known_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    if (tbs_device_status(device) == TBS_LOST) return CUDA_ERROR_UNKNOWN;
    CUcontext &primary = handles().primary[device];
    if (primary)
        ++primary->references;
    else
        primary = new_context(device, true, handles().primary_flags[device]);
    *context = primary;
    return CUDA_SUCCESS;
}

CU_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    Call call;
    if (call.status) return call.status;
    if (!known_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    CUcontext &primary = handles().primary[device];
    if (!primary) return CUDA_ERROR_INVALID_CONTEXT;
    if (--primary->references > 0) return CUDA_SUCCESS;
    destroy(primary);
    primary = nullptr;
    return CUDA_SUCCESS;
}
CU_API CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    return cuDevicePrimaryCtxRelease_v2(device);
}

CU_API CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    Call call;
    if (call.status) return call.status;
    if (!known_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    CUcontext &primary = handles().primary[device];
    if (primary) destroy(primary);
    primary = nullptr;
    return CUDA_SUCCESS;
}

CU_API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    Call call;
    if (call.status) return call.status;
    if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
    if (!known_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *flags = handles().primary_flags[device];
    *active = handles().primary[device] != nullptr;
    return CUDA_SUCCESS;
}

CU_API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
    Call call;
    if (call.status) return call.status;
    if (!known_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    handles().primary_flags[device] = flags;
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device) {
    Call call;
    if (call.status) return call.status;
    if (!context) return CUDA_ERROR_INVALID_VALUE;
    if (!known_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    if (tbs_device_status(device) == TBS_LOST) return CUDA_ERROR_UNKNOWN;
    *context = new_context(device, false, flags);
    stack().push_back(*context);
    return CUDA_SUCCESS;
}
CU_API CUresult cuCtxCreate_v4(CUcontext *context, const void *parameters, unsigned flags,
                               CUdevice device) {
    return parameters ? CUDA_ERROR_NOT_SUPPORTED : cuCtxCreate_v2(context, flags, device);
}

CU_API CUresult cuCtxDestroy_v2(CUcontext context) {
    Call call;
    if (call.status) return call.status;
    if (!context) return CUDA_ERROR_INVALID_VALUE;
    if (!good(context) || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
    if (current_context() == context) stack().pop_back();
    destroy(context);
    return CUDA_SUCCESS;
}

/* Deprecated, but what pycuda ends contexts with, the primary one at exit too. */
CU_API CUresult cuCtxDetach(CUcontext context) {
    Call call;
    if (call.status) return call.status;
    if (!good(context)) return CUDA_ERROR_INVALID_CONTEXT;
    if (context->primary) return cuDevicePrimaryCtxRelease_v2(context->device);
    if (--context->references > 0) return CUDA_SUCCESS;
    return cuCtxDestroy_v2(context);
}

CU_API CUresult cuCtxAttach(CUcontext *context, unsigned flags) {
    Here here(true);
    if (here.status) return here.status;
    if (!context || flags) return CUDA_ERROR_INVALID_VALUE;
    ++here.context->references;
    *context = here.context;
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxPushCurrent_v2(CUcontext context) {
    Call call;
    if (call.status) return call.status;
    if (!good(context)) return CUDA_ERROR_INVALID_CONTEXT;
    stack().push_back(context);
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    Call call;
    if (call.status) return call.status;
    if (stack().empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = stack().back();
    stack().pop_back();
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxSetCurrent(CUcontext context) {
    Call call;
    if (call.status) return call.status;
    if (context && !good(context)) return CUDA_ERROR_INVALID_CONTEXT;
    if (!stack().empty()) stack().pop_back();
    if (context) stack().push_back(context);
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxGetCurrent(CUcontext *context) {
    Call call;
    if (call.status) return call.status;
    if (!context) return CUDA_ERROR_INVALID_VALUE;
    *context = current_context();
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxGetDevice(CUdevice *device) {
    Here here(true);
    if (here.status) return here.status;
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = here.device;
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxGetFlags(unsigned *flags) {
    Here here(true);
    if (here.status) return here.status;
    if (!flags) return CUDA_ERROR_INVALID_VALUE;
    *flags = here.context->flags;
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version) {
    Call call;
    if (call.status) return call.status;
    if (!version) return CUDA_ERROR_INVALID_VALUE;
    if (context && !good(context)) return CUDA_ERROR_INVALID_CONTEXT;
    *version = 3020;
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxSynchronize(void) {
    Here here;
    return here.status ? here.status : result_of(tbs_drain_device(here.device));
}

CU_API CUresult cuCtxGetLimit(size_t *value, int limit) {
    Here here;
    if (here.status) return here.status;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    auto found = here.context->limits.find(limit);
    if (found == here.context->limits.end()) return CUDA_ERROR_UNSUPPORTED_LIMIT;
    *value = found->second;
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxSetLimit(int limit, size_t value) {
    Here here;
    if (here.status) return here.status;
    auto found = here.context->limits.find(limit);
    if (found == here.context->limits.end()) return CUDA_ERROR_UNSUPPORTED_LIMIT;
    found->second = value;
    return CUDA_SUCCESS;
}

CU_API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    Here here;
    if (here.status) return here.status;
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return CUDA_SUCCESS;
}

/* Hints that change nothing. */
CU_API CUresult cuCtxGetCacheConfig(int *config) {
    return config ? (*config = 0, CUDA_SUCCESS) : CUDA_ERROR_INVALID_VALUE;
}
CU_API CUresult cuCtxSetCacheConfig(int) { return CUDA_SUCCESS; }
CU_API CUresult cuCtxGetSharedMemConfig(int *config) {
    return config ? (*config = 1, CUDA_SUCCESS) : CUDA_ERROR_INVALID_VALUE;
}
CU_API CUresult cuCtxSetSharedMemConfig(int) { return CUDA_SUCCESS; }

CU_API CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
    Here here;
    if (here.status) return here.status;
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (!good(peer) || peer == here.context) return CUDA_ERROR_INVALID_CONTEXT;
    if (peer->device == here.device || !tbs_option_int(FAMILY, "peer", 0, 1))
        return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    return here.context->peers.insert(peer).second ? CUDA_SUCCESS
                                                   : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
}

CU_API CUresult cuCtxDisablePeerAccess(CUcontext peer) {
    Here here;
    if (here.status) return here.status;
    if (!good(peer)) return CUDA_ERROR_INVALID_CONTEXT;
    return here.context->peers.erase(peer) ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}
