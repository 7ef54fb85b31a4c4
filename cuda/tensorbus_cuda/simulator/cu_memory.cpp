/* Memory of devices and of the host, copies and fills.

What a copy may do late follows the driver's documentation: from and to pinned memory everything,
to pageable memory nothing, from pageable memory only the second half (the source is read at the
call).  Copies and fills on a device are asynchronous even in calls that are named otherwise. */
#include "cu.h"

#include <stdlib.h>
#include <string.h>

namespace {

const size_t PAGE = 4096;

/* The pinned block that holds an address. */
std::pair<uint64_t, size_t> pinned_at(uint64_t address) {
    auto &pinned = handles().pinned;
    auto after = pinned.upper_bound(address);
    if (after == pinned.begin()) return {0, 0};
    --after;
    return {after->first, after->second.first};
}

struct Span {
    uint64_t address;
    size_t bytes;
    Place place;
    int device;
};

Span span(uint64_t address, size_t bytes) {
    Span made = {address, bytes, Place::nowhere, -1};
    made.place = place_of(address, bytes, &made.device);
    return made;
}

tbs_status check(int device, const Span &at) {
    return at.place == Place::device ? still_there(device, at.address, at.bytes) : TBS_OK;
}

CUresult copy(CUcontext context, CUstream given, uint64_t to, uint64_t from, size_t bytes,
              bool synchronous) {
    CUstream stream;
    if (CUresult bad = find_stream(context, given, &stream)) return bad;
    if (bytes == 0) return CUDA_SUCCESS;
    Span target = span(to, bytes), source = span(from, bytes);
    int device = stream->context->device;
    if (CUresult refused = submit(device, "copy")) return refused;
    std::string staged;
    const bool stage = source.place == Place::pageable;
    if (stage) staged.assign((const char *)from, bytes);
    CUresult status = enqueue_call(stream, [=] {
        if (tbs_status gone = check(device, target)) return gone;
        if (tbs_status gone = check(device, source)) return gone;
        memmove((void *)target.address, stage ? staged.data() : (const char *)source.address,
                bytes);
        return TBS_OK;
    });
    const bool host = target.place != Place::device || source.place != Place::device;
    if (status || !((synchronous && host) || target.place == Place::pageable)) return status;
    return result_of(tbs_drain(stream->queue));
}

/* A copy whose ends have to be on a device or may not be. */
CUresult copy_checked(CUstream stream, uint64_t to, bool to_device, uint64_t from,
                      bool from_device, size_t bytes, bool synchronous) {
    Here here;
    if (here.status) return here.status;
    if (bytes == 0) return CUDA_SUCCESS;
    for (auto end : {std::make_pair(to, to_device), std::make_pair(from, from_device)}) {
        Place place = place_of(end.first, bytes);
        if (place == Place::nowhere || (end.second && place == Place::pageable))
            return CUDA_ERROR_INVALID_VALUE;
    }
    return copy(here.context, stream, to, from, bytes, synchronous);
}

template <class T>
CUresult fill(CUdeviceptr to, size_t pitch, T value, size_t width, size_t height, CUstream given) {
    Here here;
    if (here.status) return here.status;
    CUstream stream;
    if (CUresult bad = find_stream(here.context, given, &stream)) return bad;
    if (width == 0 || height == 0) return CUDA_SUCCESS;
    if (height == 1) pitch = width * sizeof(T);
    const size_t bytes = (height - 1) * pitch + width * sizeof(T);
    if (to % sizeof(T) || pitch < width * sizeof(T)) return CUDA_ERROR_INVALID_VALUE;
    Span target = span(to, bytes);
    if (target.place == Place::pageable || target.place == Place::nowhere)
        return CUDA_ERROR_INVALID_VALUE;
    const int device = stream->context->device;
    if (CUresult refused = submit(device, "copy")) return refused;
    return enqueue_call(stream, [=] {
        if (tbs_status gone = check(device, target)) return gone;
        for (size_t row = 0; row < height; ++row) {
            T *line = (T *)(target.address + row * pitch);
            for (size_t k = 0; k < width; ++k) line[k] = value;
        }
        return TBS_OK;
    });
}

CUresult allocate(CUdeviceptr *address, size_t bytes) {
    Here here;
    if (here.status) return here.status;
    if (!address || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    uint64_t made;
    if (tbs_status status = tbs_alloc(here.device, bytes, &made)) return result_of(status);
    here.context->memory.insert(made);
    *address = made;
    return CUDA_SUCCESS;
}

CUresult pin(void *address, size_t bytes, bool ours) {
    auto &pinned = handles().pinned;
    uint64_t from = uint64_t(address);
    auto next = pinned.lower_bound(from);
    auto before = pinned_at(from);
    if ((next != pinned.end() && next->first < from + bytes)
        || (before.second && from < before.first + before.second))
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    pinned[from] = {bytes, ours};
    return CUDA_SUCCESS;
}

struct Copy2D {                     /* CUDA_MEMCPY2D */
    size_t source_x, source_y;
    int source_type;                /* 1 host, 2 device, 3 array, 4 unified */
    const void *source_host;
    CUdeviceptr source_device;
    void *source_array;
    size_t source_pitch, target_x, target_y;
    int target_type;
    void *target_host;
    CUdeviceptr target_device;
    void *target_array;
    size_t target_pitch, width, height;
};

CUresult copy_2d(const Copy2D *what, CUstream stream, bool synchronous) {
    if (!what) return CUDA_ERROR_INVALID_VALUE;
    if (what->source_type == 3 || what->target_type == 3) return CUDA_ERROR_NOT_SUPPORTED;
    const size_t from_pitch = what->source_pitch ? what->source_pitch : what->width;
    const size_t to_pitch = what->target_pitch ? what->target_pitch : what->width;
    if (from_pitch < what->width || to_pitch < what->width) return CUDA_ERROR_INVALID_VALUE;
    const bool from_host = what->source_type == 1, to_host = what->target_type == 1;
    uint64_t from = from_host ? uint64_t(what->source_host) : what->source_device;
    uint64_t to = to_host ? uint64_t(what->target_host) : what->target_device;
    from += what->source_y * from_pitch + what->source_x;
    to += what->target_y * to_pitch + what->target_x;
    for (size_t row = 0; row < what->height; ++row)
        if (CUresult status = copy_checked(stream, to + row * to_pitch, !to_host,
                                           from + row * from_pitch, !from_host, what->width,
                                           synchronous))
            return status;
    return CUDA_SUCCESS;
}

}  // namespace

Place place_of(uint64_t address, size_t bytes, int *device) {
    if (tbs_range(address, bytes, nullptr, nullptr, device) == TBS_OK) return Place::device;
    /* One byte of a device's block, but not all of it. */
    if (tbs_range(address, 0, nullptr, nullptr, nullptr) == TBS_OK) return Place::nowhere;
    auto pinned = pinned_at(address);
    if (pinned.second && address + bytes <= pinned.first + pinned.second) return Place::pinned;
    return address ? Place::pageable : Place::nowhere;
}

tbs_status still_there(int device, uint64_t address, size_t bytes) {
    if (tbs_range(address, bytes, nullptr, nullptr, nullptr) == TBS_OK) return TBS_OK;
    tbs_device_fail(device, TBS_ILLEGAL_ADDRESS);
    return TBS_ILLEGAL_ADDRESS;
}

void release_memory(CUcontext context) {
    for (uint64_t address : context->memory) tbs_free(context->device, address);
    context->memory.clear();
}

CU_API CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    Here here;
    if (here.status) return here.status;
    size_t unused;
    return result_of(tbs_memory_info(here.device, free_bytes ? free_bytes : &unused,
                                     total_bytes ? total_bytes : &unused));
}

CU_API CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
    return allocate(address, bytes);
}

CU_API CUresult cuMemAllocManaged(CUdeviceptr *address, size_t bytes, unsigned flags) {
    return flags == 1 || flags == 2 ? allocate(address, bytes) : CUDA_ERROR_INVALID_VALUE;
}

CU_API CUresult cuMemAllocPitch_v2(CUdeviceptr *address, size_t *pitch, size_t width,
                                   size_t height, unsigned element) {
    if (!pitch || !width || !height || (element != 4 && element != 8 && element != 16))
        return CUDA_ERROR_INVALID_VALUE;
    *pitch = (width + 511) / 512 * 512;
    return allocate(address, *pitch * height);
}

/* Waits for the device, as the driver does. */
CU_API CUresult cuMemFree_v2(CUdeviceptr address) {
    Here here(true);
    if (here.status) return here.status;
    if (!address) return CUDA_SUCCESS;
    for (CUcontext context : handles().contexts) {
        if (!context->memory.count(address)) continue;
        tbs_status drained = tbs_drain_device(context->device);
        context->memory.erase(address);
        tbs_status freed = tbs_free(context->device, address);
        return result_of(drained ? drained : freed);
    }
    return CUDA_ERROR_INVALID_VALUE;
}

CU_API CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr address) {
    Here here;
    if (here.status) return here.status;
    uint64_t start;
    size_t bytes;
    if (tbs_range(address, 0, &start, &bytes, nullptr)) return CUDA_ERROR_NOT_FOUND;
    if (base) *base = start;
    if (size) *size = bytes;
    return CUDA_SUCCESS;
}

CU_API CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    Here here;
    if (here.status) return here.status;
    if (!address || !bytes || flags > 7) return CUDA_ERROR_INVALID_VALUE;
    *address = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    return *address ? pin(*address, bytes, true) : CUDA_ERROR_OUT_OF_MEMORY;
}
CU_API CUresult cuMemAllocHost_v2(void **address, size_t bytes) {
    return cuMemHostAlloc(address, bytes, 0);
}

CU_API CUresult cuMemFreeHost(void *address) {
    Here here(true);
    if (here.status) return here.status;
    auto found = handles().pinned.find(uint64_t(address));
    if (found == handles().pinned.end() || !found->second.second) return CUDA_ERROR_INVALID_VALUE;
    tbs_drain_device(here.device);
    handles().pinned.erase(found);
    free(address);
    return CUDA_SUCCESS;
}

CU_API CUresult cuMemHostRegister_v2(void *address, size_t bytes, unsigned flags) {
    Here here;
    if (here.status) return here.status;
    if (!address || !bytes || flags > 15) return CUDA_ERROR_INVALID_VALUE;
    return pin(address, bytes, false);
}

CU_API CUresult cuMemHostUnregister(void *address) {
    Here here(true);
    if (here.status) return here.status;
    auto found = handles().pinned.find(uint64_t(address));
    if (found == handles().pinned.end() || found->second.second)
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    handles().pinned.erase(found);
    return CUDA_SUCCESS;
}

CU_API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *address, unsigned flags) {
    Here here;
    if (here.status) return here.status;
    if (!device || flags || place_of(uint64_t(address), 1) != Place::pinned)
        return CUDA_ERROR_INVALID_VALUE;
    *device = uint64_t(address);
    return CUDA_SUCCESS;
}

CU_API CUresult cuMemHostGetFlags(unsigned *flags, void *address) {
    Here here;
    if (here.status) return here.status;
    if (!flags || place_of(uint64_t(address), 1) != Place::pinned) return CUDA_ERROR_INVALID_VALUE;
    *flags = 2;                     /* mapped, as all of it is with unified addressing */
    return CUDA_SUCCESS;
}

CU_API CUresult cuPointerGetAttribute(void *value, int attribute, CUdeviceptr address) {
    Here here;
    if (here.status) return here.status;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    int device = here.device;
    Place place = place_of(address, 1, &device);
    if (place != Place::device && place != Place::pinned) return CUDA_ERROR_INVALID_VALUE;
    uint64_t base = 0;
    size_t size = 0;
    tbs_range(address, 0, &base, &size, nullptr);
    switch (attribute) {
    case 1: {
        CUcontext owner = here.context;
        for (CUcontext context : handles().contexts)
            if (context->memory.count(base)) owner = context;
        *(CUcontext *)value = owner;
        return CUDA_SUCCESS;
    }
    case 2: *(unsigned *)value = place == Place::device ? 2 : 1; return CUDA_SUCCESS;
    case 3: *(CUdeviceptr *)value = address; return CUDA_SUCCESS;
    case 4:
        if (place == Place::device) return CUDA_ERROR_INVALID_VALUE;
        *(uint64_t *)value = address;
        return CUDA_SUCCESS;
    case 7: *(uint64_t *)value = base; return CUDA_SUCCESS;
    case 8: *(char *)value = 0; return CUDA_SUCCESS;
    case 9: *(int *)value = device; return CUDA_SUCCESS;
    case 11: *(uint64_t *)value = base; return CUDA_SUCCESS;
    case 12: *(size_t *)value = size; return CUDA_SUCCESS;
    case 13: *(char *)value = 1; return CUDA_SUCCESS;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CU_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    return copy_checked(nullptr, to, true, uint64_t(from), false, bytes, true);
}
CU_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes,
                                     CUstream stream) {
    return copy_checked(stream, to, true, uint64_t(from), false, bytes, false);
}
CU_API CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    return copy_checked(nullptr, uint64_t(to), false, from, true, bytes, true);
}
CU_API CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return copy_checked(stream, uint64_t(to), false, from, true, bytes, false);
}
CU_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy_checked(nullptr, to, true, from, true, bytes, true);
}
CU_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes,
                                     CUstream stream) {
    return copy_checked(stream, to, true, from, true, bytes, false);
}
CU_API CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy_checked(nullptr, to, false, from, false, bytes, true);
}
CU_API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return copy_checked(stream, to, false, from, false, bytes, false);
}

/* Refused unless both ends lie where the caller says. */
static CUresult check_peers(uint64_t to, CUcontext to_context, uint64_t from,
                            CUcontext from_context, size_t bytes) {
    for (CUcontext context : {to_context, from_context}) {
        if (!handles().contexts.count(context)) return CUDA_ERROR_INVALID_CONTEXT;
        if (CUresult failed = result_of(tbs_device_status(context->device))) return failed;
    }
    int to_device = -1, from_device = -1;
    if (bytes && (place_of(to, bytes, &to_device) != Place::device
                  || place_of(from, bytes, &from_device) != Place::device
                  || to_device != to_context->device || from_device != from_context->device))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CU_API CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                                  CUcontext from_context, size_t bytes, CUstream stream) {
    Here here;
    if (here.status) return here.status;
    if (CUresult bad = check_peers(to, to_context, from, from_context, bytes)) return bad;
    return copy(here.context, stream, to, from, bytes, false);
}

/* In order with all work of both contexts. */
CU_API CUresult cuMemcpyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                             CUcontext from_context, size_t bytes) {
    Here here;
    if (here.status) return here.status;
    if (CUresult bad = check_peers(to, to_context, from, from_context, bytes)) return bad;
    for (CUcontext context : {to_context, from_context})
        if (tbs_status failed = tbs_drain_device(context->device)) return result_of(failed);
    if (CUresult bad = copy(here.context, nullptr, to, from, bytes, false)) return bad;
    return result_of(tbs_drain(here.context->legacy->queue));
}

CU_API CUresult cuMemcpy2D_v2(const Copy2D *what) { return copy_2d(what, nullptr, true); }
CU_API CUresult cuMemcpy2DUnaligned_v2(const Copy2D *what) { return copy_2d(what, nullptr, true); }
CU_API CUresult cuMemcpy2DAsync_v2(const Copy2D *what, CUstream stream) {
    return copy_2d(what, stream, false);
}

#define FILL(bits, type)                                                                         \
    CU_API CUresult cuMemsetD##bits##_v2(CUdeviceptr to, type value, size_t count) {             \
        return fill(to, 0, value, count, 1, nullptr);                                            \
    }                                                                                            \
    CU_API CUresult cuMemsetD##bits##Async(CUdeviceptr to, type value, size_t count,             \
                                           CUstream stream) {                                    \
        return fill(to, 0, value, count, 1, stream);                                             \
    }                                                                                            \
    CU_API CUresult cuMemsetD2D##bits##_v2(CUdeviceptr to, size_t pitch, type value,             \
                                           size_t width, size_t height) {                        \
        return fill(to, pitch, value, width, height, nullptr);                                   \
    }                                                                                            \
    CU_API CUresult cuMemsetD2D##bits##Async(CUdeviceptr to, size_t pitch, type value,           \
                                             size_t width, size_t height, CUstream stream) {     \
        return fill(to, pitch, value, width, height, stream);                                    \
    }
FILL(8, unsigned char)
FILL(16, unsigned short)
FILL(32, unsigned)
