/* MTLCommandQueue, MTLCommandBuffer and the encoders.  Commands run when somebody waits. */
#include "metal.h"

#include <string.h>

namespace sim {

namespace {

/* MTLCommandBufferStatus and MTLCommandBufferError. */
enum { NOT_ENQUEUED = 0, COMMITTED = 2, COMPLETED = 4, FAILED = 5 };
enum { INTERNAL = 1, PAGE_FAULT = 3, OUT_OF_MEMORY = 8, DEVICE_REMOVED = 11 };

const int PLACES = 31;

Class *queue_class, *buffer_class, *compute_class, *blit_class;

long code_of(tbs_status status) {
    switch (status) {
    case TBS_ILLEGAL_ADDRESS: return PAGE_FAULT;
    case TBS_NO_MEMORY: return OUT_OF_MEMORY;
    case TBS_LOST: return DEVICE_REMOVED;
    default: return INTERNAL;
    }
}

struct Queue : Object {
    Ref<Device> device;
    tbs_stream *stream;
    int unfinished = 0;         /* command buffers that were handed out and have not ended */
    explicit Queue(Device *device)
        : Object(queue_class), device(device), stream(tbs_stream_new(device->index)) {}
    ~Queue() { tbs_stream_free(stream); }
};

Object *new_queue(Device *self, SEL) { return new Queue(self); }

/* A queue has 64 command buffers at once; for one more the caller waits. */
Object *new_commands(Queue *self, SEL) {
    tbs_lock();
    if (self->unfinished == 64) tbs_drain(self->stream);
    if (self->unfinished == 64) assertion("64 command buffers of a queue were never committed");
    ++self->unfinished;
    tbs_unlock();
    return autorelease(new CommandBuffer(self->device.get(), self, self->stream));
}

/* -- a committed command buffer is a piece of the queue's stream ------------------------------- */

tbs_status work(void *data) {
    CommandBuffer *self = (CommandBuffer *)data;
    for (const Command &command : self->commands)
        if (tbs_status status = command()) {
            self->fail(status);
            return TBS_OK;      /* the error is the command buffer's, not the queue's */
        }
    self->status = COMPLETED;
    return TBS_OK;
}

void drop(void *data) {
    CommandBuffer *self = (CommandBuffer *)data;
    if (self->status == COMMITTED) self->fail(tbs_device_status(self->device->index));
    self->commands.clear();
    --static_cast<Queue *>(self->queue.get())->unfinished;
    release(self);
}

void commit(CommandBuffer *self, SEL) {
    if (self->encoding) assertion("commit while an encoder is open");
    if (self->status != NOT_ENQUEUED) assertion("a command buffer was committed twice");
    self->status = COMMITTED;
    retain(self);
    tbs_enqueue(self->stream, work, self, drop);
    self->mark = tbs_mark(self->stream);
}

void wait(CommandBuffer *self, SEL) {
    if (self->status == NOT_ENQUEUED) assertion("waiting for a command buffer before its commit");
    tbs_status status = tbs_wait(self->stream, self->mark);
    /* A write outside of its buffers is noticed when the work is done. */
    if (status && self->status == COMPLETED) self->fail(status);
}

NSUInteger status(CommandBuffer *self, SEL) {
    if (self->status == COMMITTED) tbs_reached(self->stream, self->mark);
    return self->status;
}

Object *error(CommandBuffer *self, SEL) { return self->error.get(); }

/* -- launches ------------------------------------------------------------------------------------ */

struct Argument {
    Ref<Buffer> buffer;
    size_t offset = 0;
    std::vector<char> bytes;
    bool set = false;
};

struct Encoder : Object {
    Ref<CommandBuffer> commands;
    bool ended = false;
    Encoder(Class *cls, CommandBuffer *commands) : Object(cls), commands(commands) {}
    ~Encoder() {
        if (!ended) assertion("a command encoder was released without endEncoding");
    }
    void check() const {
        if (ended) assertion("a command was encoded after endEncoding");
    }
};

void end(Encoder *self, SEL) {
    self->check();
    self->ended = true;
    self->commands->encoding = false;
}


struct ComputeEncoder : Encoder {
    Ref<Pipeline> pipeline;
    std::vector<Argument> arguments;
    explicit ComputeEncoder(CommandBuffer *commands)
        : Encoder(compute_class, commands), arguments(PLACES) {}
    Argument &at(NSUInteger index) {
        check();
        if (index >= PLACES) assertion("buffer index %lu is not below 31", index);
        return arguments[index];
    }
};

void set_state(ComputeEncoder *self, SEL, Pipeline *pipeline) { self->pipeline = pipeline; }

void set_buffer(ComputeEncoder *self, SEL, Buffer *buffer, NSUInteger offset, NSUInteger index) {
    Argument &argument = self->at(index);
    if (buffer && offset >= buffer->length)
        assertion("offset %lu is beyond a buffer of %zu bytes", offset, buffer->length);
    argument = Argument();
    argument.buffer = buffer;
    argument.offset = offset;
    argument.set = buffer != nullptr;
}

void set_bytes(ComputeEncoder *self, SEL, const void *bytes, NSUInteger length, NSUInteger index) {
    Argument &argument = self->at(index);
    if (length == 0 || length >= 4096)
        assertion("setBytes takes 1 to 4095 bytes, %lu were given", length);
    argument = Argument();
    argument.bytes.assign((const char *)bytes, (const char *)bytes + length);
    argument.set = true;
}

tbs_status run(const Pipeline &pipeline, std::vector<Argument> &arguments, Size groups,
               Size threads) {
    std::vector<void *> addresses;
    for (int index : pipeline.buffers) {
        Argument &argument = arguments[size_t(index)];
        addresses.push_back(argument.buffer
            ? (void *)(argument.buffer->address + argument.offset) : (void *)argument.bytes.data());
    }
    addresses.push_back(nullptr);
    const uint32_t grid[3] = {uint32_t(groups.width), uint32_t(groups.height),
                              uint32_t(groups.depth)};
    const uint32_t group[3] = {uint32_t(threads.width), uint32_t(threads.height),
                               uint32_t(threads.depth)};
    /* Apple's GPUs flush subnormals. */
    return tbs_run(pipeline.device->index, pipeline.library->module, pipeline.body,
                   addresses.data(), grid, group, 0, 1);
}

void dispatch(ComputeEncoder *self, SEL, Size groups, Size threads) {
    self->check();
    if (!self->pipeline) assertion("a dispatch without a pipeline state");
    NSUInteger count = threads.width * threads.height * threads.depth;
    if (count == 0 || count > self->pipeline->most())
        assertion("a group of %lu threads; the pipeline has at most %lu", count,
                  self->pipeline->most());
    if (!groups.width || !groups.height || !groups.depth || groups.width > UINT32_MAX)
        assertion("a grid of %lu groups", groups.width);
    for (int index : self->pipeline->buffers)
        if (!self->arguments[size_t(index)].set)
            assertion("missing buffer binding at index %d", index);
    if (!self->commands->submit("launch")) return;
    Ref<Pipeline> pipeline = self->pipeline;
    std::vector<Argument> arguments = self->arguments;
    self->commands->commands.push_back([pipeline, arguments, groups, threads]() mutable {
        return run(*pipeline.get(), arguments, groups, threads);
    });
}

Object *compute_encoder(CommandBuffer *self, SEL) {
    self->begin("a compute command encoder");
    return autorelease(new ComputeEncoder(self));
}

/* -- copies ---------------------------------------------------------------------------------------- */

void blit(Encoder *self, SEL, Buffer *source, NSUInteger from, Buffer *target, NSUInteger to,
          NSUInteger size) {
    self->check();
    if ((from | to | size) % 4)
        assertion("a copy of %lu bytes from %lu to %lu is not of whole words", size, from, to);
    if (from + size > source->length || to + size > target->length)
        assertion("a copy of %lu bytes from %lu to %lu leaves a buffer", size, from, to);
    if (!self->commands->submit("copy")) return;
    Ref<Buffer> a(source), b(target);
    self->commands->commands.push_back([a, b, from, to, size] {
        memmove((char *)b->address + to, (const char *)a->address + from, size);
        return TBS_OK;
    });
}

Object *blit_encoder(CommandBuffer *self, SEL) {
    self->begin("a blit command encoder");
    return autorelease(new Encoder(blit_class, self));
}

}  // namespace

CommandBuffer::CommandBuffer(Device *device, Object *queue, tbs_stream *stream)
    : Object(buffer_class), device(device), queue(queue), stream(stream) {}

CommandBuffer::~CommandBuffer() {
    if (status != NOT_ENQUEUED) return;
    tbs_lock();
    --static_cast<Queue *>(queue.get())->unfinished;
    tbs_unlock();
}

void CommandBuffer::begin(const char *what) {
    if (status != NOT_ENQUEUED) assertion("%s in a command buffer that was committed", what);
    if (encoding) assertion("%s while another encoder is open", what);
    encoding = true;
}

bool CommandBuffer::submit(const char *kind) {
    tbs_status answer = tbs_submit(device->index, kind);
    if (answer == TBS_OK) return true;
    std::string words = tbs_message();
    commands.push_back([answer] { return answer; });
    if (!error) {
        Error *made = new Error(code_of(answer), words);
        error = made;
        release(made);
    }
    return false;
}

void CommandBuffer::fail(tbs_status met) {
    status = FAILED;
    if (error) return;
    Error *made = new Error(code_of(met), tbs_message());
    error = made;
    release(made);
}

void setup_commands() {
    device_class->method("newCommandQueue", imp(new_queue));
    queue_class = new Class("MTLCommandQueue");
    queue_class->method("commandBuffer", imp(new_commands));
    buffer_class = new Class("MTLCommandBuffer");
    buffer_class->method("computeCommandEncoder", imp(compute_encoder))
        .method("blitCommandEncoder", imp(blit_encoder))
        .method("commit", imp(commit))
        .method("waitUntilCompleted", imp(wait))
        .method("status", imp(status))
        .method("error", imp(error));
    compute_class = new Class("MTLComputeCommandEncoder");
    compute_class->method("setComputePipelineState:", imp(set_state))
        .method("setBuffer:offset:atIndex:", imp(set_buffer))
        .method("setBytes:length:atIndex:", imp(set_bytes))
        .method("dispatchThreadgroups:threadsPerThreadgroup:", imp(dispatch))
        .method("endEncoding", imp(end));
    blit_class = new Class("MTLBlitCommandEncoder");
    blit_class
        ->method("copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:", imp(blit))
        .method("endEncoding", imp(end));
}

}  // namespace sim
