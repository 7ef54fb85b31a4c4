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

struct Kernel {
    std::string name, most;                 /* threads of a group, an expression */
};

/* The functions whose declarators follow the word __global__. */
std::vector<Kernel> kernels_of(const std::string &text) {
    static const std::string word = "__global__", bounds = "__launch_bounds__";
    std::vector<Kernel> kernels;
    for (size_t at = 0; (at = text.find(word, at)) != std::string::npos;) {
        at += word.size();
        size_t open = text.find('(', at);
        std::string most = "1024";
        for (;;) {
            if (open == std::string::npos) return kernels;
            size_t end = open;
            while (end > at && isspace((unsigned char)text[end - 1])) --end;
            size_t start = end;
            while (start > at && in_word(text[start - 1])) --start;
            std::string name = text.substr(start, end - start);
            if (name != bounds) {
                if (!name.empty()) kernels.push_back({name, most});
                break;
            }
            size_t behind = behind_brackets(text, open);
            most = text.substr(open + 1, behind - open - 2);
            most = most.substr(0, most.find(','));
            open = text.find('(', behind);
        }
        at = open;
    }
    return kernels;
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
    for (const Kernel &kernel : kernels_of(text))
        text += "\nTBS_GRID_ENTRY(" + kernel.name + ", (" + kernel.most + "))";
    return strdup(text.c_str());
}

tbs_status tbs_grid_find(tbs_module *module, const char *name, tbs_grid_kernel *kernel) {
    std::string enter = std::string("tbs_entry_") + name, info = std::string("tbs_info_") + name;
    kernel->enter = (void (*)(void *))tbs_symbol(module, enter.c_str());
    kernel->info = (const uint32_t *)tbs_symbol(module, info.c_str());
    return kernel->enter && kernel->info ? TBS_OK : TBS_INVALID;
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
    const uint32_t *info = kernel->info;
    if (all > 1024 || all > info[2])
        return fail(TBS_INVALID, "a group of %lu threads, where %u is the most",
                    (unsigned long)all, info[2]);
    size_t size = info[1], given = size;
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
        for (uint32_t k = 0; k < info[0]; ++k)
            memcpy(arguments + info[3 + 2 * k], parameters[k], info[4 + 2 * k]);
    }
    Launch *launch = new Launch{device, module, *kernel, {groups[0], groups[1], groups[2]},
                                {threads[0], threads[1], threads[2]}, dynamic, flush, arguments};
    return tbs_enqueue(stream, run_launch, launch, drop_launch);
}

}  // extern "C"
