/* Streams and events: the legacy stream waits for blocking streams and they for it. */
#include "cu.h"

namespace {

const unsigned NON_BLOCKING = 1, NO_TIMING = 2;

bool alive(tbs_stream *queue) {
    for (CUstream stream : handles().streams)
        if (stream->queue == queue) return true;
    return false;
}

/* A piece of work that goes on when another stream has come to its present end. */
void wait_for(CUstream stream, tbs_stream *other, uint64_t mark) {
    struct Mark {
        tbs_stream *queue;
        uint64_t mark;
    };
    tbs_enqueue(
        stream->queue,
        [](void *data) {
            Mark *wanted = (Mark *)data;
            /* One that is gone was drained when it went. */
            return alive(wanted->queue) ? tbs_wait(wanted->queue, wanted->mark) : TBS_OK;
        },
        new Mark{other, mark}, [](void *data) { delete (Mark *)data; });
}

void order(CUstream stream) {
    CUcontext context = stream->context;
    CUstream legacy = context->legacy;
    if (stream->flags & NON_BLOCKING) return;
    if (stream != legacy) {
        if (stream->legacy == legacy->issued) return;
        stream->legacy = legacy->issued;
        wait_for(stream, legacy->queue, tbs_mark(legacy->queue));
        return;
    }
    for (CUstream other : handles().streams) {
        if (other->context != context || other == legacy || (other->flags & NON_BLOCKING)
            || other->ordered == other->issued)
            continue;
        other->ordered = other->issued;
        wait_for(legacy, other->queue, tbs_mark(other->queue));
    }
}

bool good(CUevent event) { return handles().events.count(event) != 0; }

/* Keep an event's time when it is reached, since a stream forgets. */
CUresult settle(CUevent event, tbs_status status) {
    if (status) return result_of(status);
    if (event->stream) event->time = tbs_time(event->stream->queue, event->mark);
    event->stream = nullptr;
    return CUDA_SUCCESS;
}

CUresult create(CUstream *stream, unsigned flags) {
    Here here;
    if (here.status) return here.status;
    if (!stream || (flags & ~NON_BLOCKING)) return CUDA_ERROR_INVALID_VALUE;
    *stream = new CUstream_st{here.context, flags, tbs_stream_new(here.device)};
    handles().streams.insert(*stream);
    return CUDA_SUCCESS;
}

}  // namespace

CUresult find_stream(CUcontext context, CUstream given, CUstream *found) {
    if (uintptr_t(given) <= 1)
        *found = context->legacy;
    else if (uintptr_t(given) == 2)
        *found = context->per_thread;
    else if (handles().streams.count(given))
        *found = given;
    else
        return CUDA_ERROR_INVALID_HANDLE;
    return CUDA_SUCCESS;
}

CUresult enqueue(CUstream stream, tbs_status (*work)(void *), void *data, void (*drop)(void *)) {
    order(stream);
    ++stream->issued;
    return result_of(tbs_enqueue(stream->queue, work, data, drop));
}

void destroy_stream(CUstream stream) {
    tbs_drain(stream->queue);
    for (CUevent event : handles().events)
        if (event->stream == stream) settle(event, TBS_OK);
    tbs_stream_free(stream->queue);
    handles().streams.erase(stream);
    delete stream;
}

CU_API CUresult cuStreamCreate(CUstream *stream, unsigned flags) { return create(stream, flags); }
CU_API CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int) {
    return create(stream, flags);
}

CU_API CUresult cuStreamDestroy_v2(CUstream stream) {
    Call call;
    if (call.status) return call.status;
    if (uintptr_t(stream) <= 2 || !handles().streams.count(stream))
        return CUDA_ERROR_INVALID_HANDLE;
    destroy_stream(stream);
    return CUDA_SUCCESS;
}

#define STREAM_CALL(given)                                                    \
    Here here;                                                                \
    if (here.status) return here.status;                                      \
    CUstream stream;                                                          \
    if (CUresult bad = find_stream(here.context, given, &stream)) return bad

CU_API CUresult cuStreamSynchronize(CUstream given) {
    STREAM_CALL(given);
    order(stream);
    return result_of(tbs_drain(stream->queue));
}

CU_API CUresult cuStreamQuery(CUstream given) {
    STREAM_CALL(given);
    order(stream);
    tbs_status status = tbs_reached(stream->queue, tbs_mark(stream->queue));
    return status == TBS_OK ? result_of(tbs_drain(stream->queue)) : result_of(status);
}

CU_API CUresult cuStreamGetCtx(CUstream given, CUcontext *context) {
    STREAM_CALL(given);
    if (!context) return CUDA_ERROR_INVALID_VALUE;
    *context = stream->context;
    return CUDA_SUCCESS;
}

CU_API CUresult cuStreamGetFlags(CUstream given, unsigned *flags) {
    STREAM_CALL(given);
    if (!flags) return CUDA_ERROR_INVALID_VALUE;
    *flags = stream->flags;
    return CUDA_SUCCESS;
}

CU_API CUresult cuStreamGetPriority(CUstream given, int *priority) {
    STREAM_CALL(given);
    if (!priority) return CUDA_ERROR_INVALID_VALUE;
    *priority = 0;
    return CUDA_SUCCESS;
}

CU_API CUresult cuStreamWaitEvent(CUstream given, CUevent event, unsigned flags) {
    STREAM_CALL(given);
    if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
    if (!good(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (!event->recorded || !event->stream || event->stream == stream) return CUDA_SUCCESS;
    order(stream);
    ++stream->issued;
    wait_for(stream, event->stream->queue, event->mark);
    return CUDA_SUCCESS;
}

CU_API CUresult cuLaunchHostFunc(CUstream given, void (*function)(void *), void *data) {
    STREAM_CALL(given);
    if (!function) return CUDA_ERROR_INVALID_VALUE;
    return enqueue_call(stream, [=] { return function(data), TBS_OK; });
}

CU_API CUresult cuStreamAddCallback(CUstream given, void (*function)(CUstream, int, void *),
                                    void *data, unsigned flags) {
    STREAM_CALL(given);
    if (!function || flags) return CUDA_ERROR_INVALID_VALUE;
    return enqueue_call(stream, [=] { return function(given, 0, data), TBS_OK; });
}

CU_API CUresult cuEventCreate(CUevent *event, unsigned flags) {
    Here here;
    if (here.status) return here.status;
    if (!event || flags > 7) return CUDA_ERROR_INVALID_VALUE;
    *event = new CUevent_st{here.context, flags};
    handles().events.insert(*event);
    return CUDA_SUCCESS;
}

CU_API CUresult cuEventDestroy_v2(CUevent event) {
    Call call;
    if (call.status) return call.status;
    if (!good(event)) return CUDA_ERROR_INVALID_HANDLE;
    handles().events.erase(event);
    delete event;
    return CUDA_SUCCESS;
}

CU_API CUresult cuEventRecord(CUevent event, CUstream given) {
    STREAM_CALL(given);
    if (!good(event) || event->context->device != stream->context->device)
        return CUDA_ERROR_INVALID_HANDLE;
    order(stream);
    ++stream->issued;
    event->recorded = true;
    event->stream = stream;
    event->time = -1;
    event->mark = tbs_mark(stream->queue);
    return CUDA_SUCCESS;
}

CU_API CUresult cuEventQuery(CUevent event) {
    Here here;
    if (here.status) return here.status;
    if (!good(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (!event->recorded || !event->stream) return CUDA_SUCCESS;
    return settle(event, tbs_reached(event->stream->queue, event->mark));
}

CU_API CUresult cuEventSynchronize(CUevent event) {
    Here here;
    if (here.status) return here.status;
    if (!good(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (!event->recorded || !event->stream) return CUDA_SUCCESS;
    return settle(event, tbs_wait(event->stream->queue, event->mark));
}

CU_API CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    Here here;
    if (here.status) return here.status;
    if (!milliseconds) return CUDA_ERROR_INVALID_VALUE;
    for (CUevent event : {start, end}) {
        if (!good(event) || !event->recorded || (event->flags & NO_TIMING))
            return CUDA_ERROR_INVALID_HANDLE;
        if (event->stream && tbs_time(event->stream->queue, event->mark) < 0)
            return CUDA_ERROR_NOT_READY;
        settle(event, TBS_OK);
    }
    *milliseconds = float(1e3 * (end->time - start->time));
    return CUDA_SUCCESS;
}
CU_API CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
