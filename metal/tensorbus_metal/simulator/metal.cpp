/* MTLDevice and MTLBuffer.

   Settings (TENSORBUS_SIMULATE_METAL): devices, family (apple1 .. apple10, mac2), macos, memory,
   name, threads (largest group), local (bytes of threadgroup memory), mps (0: none), nocopy (0: the
   host's memory cannot be used in place). */
#include "metal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace sim {

Class *device_class;

namespace {

Class *buffer_class;

const char *const FAMILY = "METAL";

double macos() { return atof(tbs_option(FAMILY, "macos", 0, "14.0")); }

/* Devices live as long as the process. */
std::vector<Device *> &devices() {
    static std::vector<Device *> *the = nullptr;
    if (!the) {
        the = new std::vector<Device *>;
        int64_t count = tbs_option_int(FAMILY, "devices", 0, 1);
        for (int k = 0; k < int(count); ++k) the->push_back(new Device(k));
    }
    return *the;
}

signed char supports_family(Device *self, SEL, long family) {
    std::string own = self->option("family", "apple7");
    bool metal3 = own == "mac2";
    if (own.compare(0, 5, "apple") == 0) {
        int generation = atoi(own.c_str() + 5);
        if (family > 1000 && family <= 1000 + generation) return 1;
        metal3 = generation >= 7;
    }
    return (family == 2002 && own == "mac2") || (family == 5001 && metal3);
}

Object *device_name(Device *self, SEL) { return self->name.get(); }
uint64_t registry_id(Device *self, SEL) { return 0x100000400u + unsigned(self->index); }
signed char unified(Device *, SEL) { return 1; }
size_t total(Device *self) { return size_t(self->number("memory", int64_t(4) << 30)); }
NSUInteger max_buffer(Device *self, SEL) { return total(self) / 2; }
uint64_t working_set(Device *self, SEL) { return total(self); }
NSUInteger local_memory(Device *self, SEL) { return NSUInteger(self->number("local", 32768)); }

NSUInteger allocated(Device *self, SEL) {
    size_t free_bytes = 0, all = 0;
    tbs_memory_info(self->index, &free_bytes, &all);
    return all - free_bytes;
}

Buffer *new_buffer(Device *self, SEL, NSUInteger length, NSUInteger) {
    uint64_t address;
    if (length == 0 || length > max_buffer(self, nullptr)) return nullptr;
    if (tbs_alloc(self->index, length, &address)) return nullptr;
    return new Buffer(self, address, length, true);
}

Buffer *new_buffer_bytes(Device *self, SEL selector, const void *bytes, NSUInteger length,
                         NSUInteger options) {
    Buffer *made = new_buffer(self, selector, length, options);
    if (made) memcpy((void *)made->address, bytes, length);
    return made;
}

Buffer *new_buffer_no_copy(Device *self, SEL, void *bytes, NSUInteger length, NSUInteger,
                           void *deallocator) {
    size_t page = size_t(sysconf(_SC_PAGESIZE));
    if ((uintptr_t)bytes % page || length % page || length == 0)
        assertion("newBufferWithBytesNoCopy: pointer %p and length %lu must be whole pages", bytes,
                  length);
    if (deallocator) assertion("newBufferWithBytesNoCopy: deallocators are not simulated");
    if (tbs_device_status(self->index) || length > max_buffer(self, nullptr)
        || !self->number("nocopy", 1))
        return nullptr;
    return new Buffer(self, (uint64_t)bytes, length, false);
}

void *contents(Buffer *self, SEL) { return (void *)self->address; }
NSUInteger length(Buffer *self, SEL) { return self->length; }

}  // namespace

Device::Device(int index) : Object(device_class), index(index) {
    String *made = new String(option("name", "Simulated GPU"));
    name = made;
    release(made);
    tbs_set_memory(index, size_t(number("memory", int64_t(4) << 30)));
}

const char *Device::option(const char *key, const char *otherwise) const {
    return tbs_option(FAMILY, key, index, otherwise);
}

int64_t Device::number(const char *key, int64_t otherwise) const {
    return tbs_option_int(FAMILY, key, index, otherwise);
}

Buffer::Buffer(Device *device, uint64_t address, size_t length, bool own)
    : Object(buffer_class), device(device), address(address), length(length), own(own) {}

Buffer::~Buffer() {
    if (own) tbs_free(device->index, address);
}

void setup_metal() {
    device_class = new Class("MTLDevice");
    device_class->method("name", imp(device_name))
        .method("registryID", imp(registry_id))
        .method("hasUnifiedMemory", imp(unified))
        .method("maxBufferLength", imp(max_buffer))
        .method("maxThreadgroupMemoryLength", imp(local_memory))
        .method("recommendedMaxWorkingSetSize", imp(working_set))
        .method("currentAllocatedSize", imp(allocated))
        .method("newBufferWithLength:options:", imp(new_buffer))
        .method("newBufferWithBytes:length:options:", imp(new_buffer_bytes))
        .method("newBufferWithBytesNoCopy:length:options:deallocator:", imp(new_buffer_no_copy));
    if (macos() >= 10.15) device_class->method("supportsFamily:", imp(supports_family));
    buffer_class = new Class("MTLBuffer");
    buffer_class->method("contents", imp(contents)).method("length", imp(length));
    setup_compiler();
    setup_commands();
}

}  // namespace sim

EXPORT sim::Object *MTLCreateSystemDefaultDevice(void) {
    if (!objc_getClass("MTLDevice") || sim::devices().empty()) return nullptr;
    sim::retain(sim::devices()[0]);
    return sim::devices()[0];
}

EXPORT sim::Object *MTLCopyAllDevices(void) {
    if (!objc_getClass("MTLDevice")) return nullptr;
    sim::Array *list = new sim::Array;
    for (sim::Device *device : sim::devices()) list->items.push_back(sim::Ref<sim::Object>(device));
    return list;
}
