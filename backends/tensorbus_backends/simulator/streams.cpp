/* Streams whose work is as late as a driver may make it. */
#include "internal.h"

#include <deque>
#include <map>
#include <set>

namespace {

struct Piece {
    tbs_status (*work)(void *);
    void *data;
    void (*drop)(void *);
};

const size_t WAITING = 64, TIMES = 65536;

}  // namespace

struct tbs_stream {
    int device;
    std::deque<Piece> waiting;
    uint64_t done = 0;                      /* pieces; number k is the k-th, from 1 */
    std::deque<double> times;               /* of the latest pieces that are done */
    tbs_status failure = TBS_OK;            /* first one that is not for good */
    std::string message;

    uint64_t end() const { return done + running + waiting.size(); }
    uint64_t running = 0;
};

namespace {

std::set<tbs_stream *> &streams() {
    static auto *const the = new std::set<tbs_stream *>;
    return *the;
}

/* Work may free streams, those that are walked through among them. */
std::set<tbs_stream *> copy_of_streams() { return streams(); }
bool alive(tbs_stream *stream) { return streams().count(stream) != 0; }

/* Run the oldest piece, or drop it if the device is dead. */
void step(tbs_stream *stream, bool run = true) {
    Piece piece = stream->waiting.front();
    stream->waiting.pop_front();
    ++stream->running;
    if (run && piece.work && tbs_device_status(stream->device) == TBS_OK) {
        tbs_status status = piece.work(piece.data);
        if (status && !stream->failure && tbs_device_status(stream->device) == TBS_OK) {
            stream->failure = status;
            stream->message = tbs_message();
        }
    }
    if (piece.drop) piece.drop(piece.data);
    --stream->running;
    ++stream->done;
    stream->times.push_back(tbs::now());
    if (stream->times.size() > TIMES) stream->times.pop_front();
}

tbs_status outcome(tbs_stream *stream) {
    tbs::check_canaries(stream->device);
    if (tbs_status status = tbs_device_status(stream->device)) return status;
    tbs_status status = stream->failure;
    stream->failure = TBS_OK;
    return status ? tbs::fail(status, "%s", stream->message.c_str()) : TBS_OK;
}

void enqueue(tbs_stream *stream, const Piece &piece) {
    while (stream->waiting.size() >= WAITING) step(stream);
    stream->waiting.push_back(piece);
}

}  // namespace

namespace tbs {

void drop_waiting(int device) {
    for (tbs_stream *stream : copy_of_streams()) {
        if (!alive(stream) || stream->device != device) continue;
        while (!stream->waiting.empty()) step(stream, false);
        stream->failure = TBS_OK;
    }
}

void drain_everything() {
    for (tbs_stream *stream : copy_of_streams())
        while (alive(stream) && !stream->waiting.empty()) step(stream);
}

}  // namespace tbs

using namespace tbs;

extern "C" {

tbs_stream *tbs_stream_new(int device) {
    TBS_REFUSE_FORKED(nullptr);
    Lock lock;
    tbs_stream *stream = new tbs_stream;
    stream->device = device;
    streams().insert(stream);
    return stream;
}

void tbs_stream_free(tbs_stream *stream) {
    if (!stream || tbs_forked()) return;
    Lock lock;
    while (!stream->waiting.empty()) step(stream);
    streams().erase(stream);
    delete stream;
}

tbs_status tbs_enqueue(tbs_stream *stream, tbs_status (*work)(void *), void *data,
                       void (*drop)(void *)) {
    if (tbs_forked()) {
        if (drop) drop(data);
        return forked();
    }
    Lock lock;
    if (tbs_status status = tbs_device_status(stream->device)) {
        if (drop) drop(data);
        return status;
    }
    enqueue(stream, {work, data, drop});
    return TBS_OK;
}

tbs_status tbs_drain(tbs_stream *stream) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    tbs_trip("wait");
    while (!stream->waiting.empty()) step(stream);
    return outcome(stream);
}

tbs_status tbs_drain_device(int device) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    tbs_status first = TBS_OK;
    std::string words;
    for (tbs_stream *stream : copy_of_streams()) {
        if (!alive(stream) || stream->device != device) continue;
        tbs_status status = tbs_drain(stream);
        if (status && !first) {
            first = status;
            words = tbs_message();
        }
    }
    return first ? fail(first, "%s", words.c_str()) : tbs_device_status(device);
}

/* A mark is a piece of its own, so that its time is when the stream came to it. */
uint64_t tbs_mark(tbs_stream *stream) {
    TBS_REFUSE_FORKED(0);
    Lock lock;
    enqueue(stream, {nullptr, nullptr, nullptr});
    return stream->end();
}

tbs_status tbs_reached(tbs_stream *stream, uint64_t mark) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    if (stream->done < mark && !stream->waiting.empty()) step(stream);
    if (tbs_status status = tbs_device_status(stream->device)) return status;
    return stream->done >= mark ? TBS_OK : fail(TBS_NOT_READY, "work before the mark still waits");
}

tbs_status tbs_wait(tbs_stream *stream, uint64_t mark) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    tbs_trip("wait");
    while (stream->done < mark && !stream->waiting.empty()) step(stream);
    return outcome(stream);
}

double tbs_time(tbs_stream *stream, uint64_t mark) {
    TBS_REFUSE_FORKED(-1);
    Lock lock;
    uint64_t oldest = stream->done - stream->times.size() + 1;
    if (mark < oldest || mark > stream->done) return -1;
    return stream->times[size_t(mark - oldest)];
}

}  // extern "C"
