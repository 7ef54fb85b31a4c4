/* The objects of the simulated Metal that its parts share. */
#ifndef TENSORBUS_METAL_METAL_H
#define TENSORBUS_METAL_METAL_H

#include "executor.h"
#include "objc.h"

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <map>

namespace sim {

typedef unsigned long NSUInteger;

struct Size {       /* MTLSize */
    NSUInteger width, height, depth;
};

struct Device : Object {
    int index;
    Ref<String> name;
    explicit Device(int index);
    const char *option(const char *key, const char *otherwise) const;
    int64_t number(const char *key, int64_t otherwise) const;
};

struct Buffer : Object {
    Ref<Device> device;
    uint64_t address;
    size_t length;
    bool own;           /* memory of the device, not the host's pages */
    Buffer(Device *device, uint64_t address, size_t length, bool own);
    ~Buffer();
};

struct Library : Object {
    tbs_module *module;
    std::map<std::string, std::vector<int>> kernels;
    Library(tbs_module *module, const std::map<std::string, std::vector<int>> &kernels);
    ~Library();
};

struct Function : Object {
    Ref<Library> library;
    std::string name;
    Function(Library *library, const std::string &name);
};

struct Pipeline : Object {
    Ref<Device> device;
    Ref<Library> library;
    void (*body)(void *);
    std::vector<int> buffers;       /* index of each address that the body takes */
    Pipeline(Device *device, Function *function);
    NSUInteger most() const;        /* threads in a group */
};

/* A command does its work and gives a status; words for a failure are in tbs_message. */
typedef std::function<tbs_status()> Command;

struct CommandBuffer : Object {
    Ref<Device> device;
    Ref<Object> queue;
    tbs_stream *stream;
    std::vector<Command> commands;
    NSUInteger status = 0;
    Ref<Error> error;
    bool encoding = false;
    uint64_t mark = 0;
    CommandBuffer(Device *device, Object *queue, tbs_stream *stream);
    ~CommandBuffer();
    /* Refuses with the words of Metal's validation unless commands may be added. */
    void begin(const char *what);
    /* The device's answer to one more launch or copy; adds a command that fails if it is refused. */
    bool submit(const char *kind);
    void fail(tbs_status status);
};

struct CompileOptions : Object {
    bool fast = true;
    CompileOptions();
};

extern Class *device_class;

void setup_commands();
void setup_compiler();

}  // namespace sim
#endif
