/* Kernels in CUDA C++ or HIP C++: entries, arguments, launches. */
#include "grid.h"

#include "internal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

namespace {

struct Launch {
    int device;
    tbs_module *module;
    tbs_grid_kernel kernel;
    uint32_t groups[3], threads[3];
    size_t dynamic;
    int flush;
    void *arguments;
};

tbs_status run_launch(void *data) {
    Launch *launch = (Launch *)data;
    return tbs_run(launch->device, launch->module, launch->kernel.enter, launch->arguments,
                   launch->groups, launch->threads, launch->dynamic, launch->flush);
}

void drop_launch(void *data) {
    free(((Launch *)data)->arguments);
    delete (Launch *)data;
}

bool in_word(char c) { return isalnum((unsigned char)c) || c == '_'; }

/* Behind a bracket that matches the one at `at`. */
size_t behind_brackets(const std::string &text, size_t at) {
    for (int depth = 0; at < text.size(); ++at) {
        if (text[at] == '(') ++depth;
        if (text[at] == ')' && --depth == 0) return at + 1;
    }
    return text.size();
}

/* Names of the functions whose declarators follow the word __global__. */
std::vector<std::string> kernels_of(const std::string &text) {
    static const std::string word = "__global__", bounds = "__launch_bounds__";
    std::vector<std::string> names;
    for (size_t at = 0; (at = text.find(word, at)) != std::string::npos;) {
        at += word.size();
        size_t open = text.find('(', at);
        for (;;) {
            if (open == std::string::npos) return names;
            size_t end = open;
            while (end > at && isspace((unsigned char)text[end - 1])) --end;
            size_t start = end;
            while (start > at && in_word(text[start - 1])) --start;
            std::string name = text.substr(start, end - start);
            if (name != bounds) {
                if (!name.empty()) names.push_back(name);
                break;
            }
            open = text.find('(', behind_brackets(text, open));
        }
        at = open;
    }
    return names;
}

size_t packed_offset(size_t at, uint32_t shape) {
    size_t alignment = shape >> 24;
    return (at + alignment - 1) / alignment * alignment;
}

size_t size_of(uint32_t shape) { return shape & 0xffffff; }

/* Bytes of all arguments together. */
size_t packed_size(const uint32_t *shape) {
    size_t at = 0;
    for (uint32_t k = 1; k <= shape[0]; ++k)
        at = packed_offset(at, shape[k]) + size_of(shape[k]);
    return at;
}

/* The packed arguments that `extra` names, and how many bytes it says they have. */
const void *packed_in(void **extra, size_t *size) {
    const void *buffer = nullptr;
    *size = 0;
    for (; *extra && *extra != (void *)3; extra += 2) {
        if (*extra == (void *)1) buffer = extra[1];
        else if (*extra == (void *)2) *size = *(size_t *)extra[1];
        else return nullptr;
    }
    return buffer;
}

}  // namespace

using namespace tbs;

extern "C" {

char *tbs_grid_text(const char *source) {
    std::string text = source;
    for (const std::string &name : kernels_of(text))
        text += "\nTBS_GRID_KERNEL(" + name + ")";
    return strdup(text.c_str());
}

tbs_status tbs_grid_find(tbs_module *module, const char *name, tbs_grid_kernel *kernel) {
    std::string enter = std::string("tbs_enter_") + name, shape = std::string("tbs_shape_") + name;
    void *entry = tbs_symbol(module, enter.c_str());
    auto describe = (const uint32_t *(*)())(entry ? tbs_symbol(module, shape.c_str()) : nullptr);
    if (!describe) return TBS_INVALID;
    kernel->enter = (void (*)(void *))entry;
    kernel->shape = describe();
    return TBS_OK;
}

tbs_status tbs_grid_launch(tbs_stream *stream, int device, tbs_module *module,
                           const tbs_grid_kernel *kernel, const uint32_t groups[3],
                           const uint32_t threads[3], size_t dynamic, void **parameters,
                           void **extra, int flush) {
    uint64_t all = 1;
    for (int k = 0; k < 3; ++k) {
        if (!groups[k] || !threads[k]) return fail(TBS_INVALID, "a launch of no groups or threads");
        all *= threads[k];
    }
    if (all > 1024) return fail(TBS_INVALID, "a group of %lu threads", (unsigned long)all);
    size_t size = packed_size(kernel->shape), given = size;
    const void *packed = nullptr;
    if (!parameters && size) {
        packed = extra ? packed_in(extra, &given) : nullptr;
        if (!packed || given < size)
            return fail(TBS_INVALID, "%zu bytes of arguments for a kernel that takes %zu",
                        packed ? given : 0, size);
    }
    char *arguments = nullptr;
    if (posix_memalign((void **)&arguments, 64, size ? size : 1)) return TBS_NO_MEMORY;
    if (packed) {
        memcpy(arguments, packed, size);
    } else {
        size_t at = 0;
        for (uint32_t k = 1; k <= kernel->shape[0]; ++k) {
            at = packed_offset(at, kernel->shape[k]);
            memcpy(arguments + at, parameters[k - 1], size_of(kernel->shape[k]));
            at += size_of(kernel->shape[k]);
        }
    }
    Launch *launch = new Launch{device, module, *kernel, {groups[0], groups[1], groups[2]},
                                {threads[0], threads[1], threads[2]}, dynamic, flush, arguments};
    return tbs_enqueue(stream, run_launch, launch, drop_launch);
}

}  // extern "C"
