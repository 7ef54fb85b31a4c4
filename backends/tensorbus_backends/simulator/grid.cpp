/* Kernels in CUDA C++ or HIP C++: entries, arguments, launches. */
#include "grid.h"

#include "internal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
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

struct Kernel {
    std::string name, most;                 /* threads of a group, an expression */
};

/* The text with comments, literals and directives blanked, so that words in it are code. */
std::string code_only(const std::string &text) {
    std::string code = text;
    bool fresh = true;              /* nothing but blanks on this line so far */
    for (size_t k = 0; k < text.size(); ++k) {
        size_t end = k;
        if (text.compare(k, 2, "//") == 0) {
            end = text.find('\n', k);
        } else if (text.compare(k, 2, "/*") == 0) {
            end = text.find("*/", k + 2);
            end = end == std::string::npos ? end : end + 2;
        } else if (text[k] == '#' && fresh) {
            do end = text.find('\n', end == k ? k : end + 1);
            while (end != std::string::npos && text[end - 1] == '\\');
        } else if (text[k] == '"') {
            for (end = k + 1; end < text.size() && text[end] != '"'; ++end)
                if (text[end] == '\\') ++end;
            ++end;
        } else {
            fresh = text[k] == '\n' || (fresh && isspace((unsigned char)text[k]));
            continue;
        }
        end = std::min(end, text.size());
        for (size_t at = k; at < end; ++at)
            if (code[at] != '\n') code[at] = ' ';
        k = end - 1;
    }
    return code;
}

bool is_word(char c) { return isalnum((unsigned char)c) || c == '_'; }

size_t skip_parentheses(const std::string &code, size_t at) {
    int depth = 0;
    do {
        depth += code[at] == '(' ? 1 : code[at] == ')' ? -1 : 0;
        ++at;
    } while (depth && at < code.size());
    return at;
}

/* Every `__global__ ... name(`, with the number in its __launch_bounds__. */
std::vector<Kernel> kernels_of(const std::string &text) {
    const std::string code = code_only(text), mark = "__global__", bounds = "__launch_bounds__";
    std::vector<Kernel> kernels;
    for (size_t at = 0; (at = code.find(mark, at)) != std::string::npos;) {
        at += mark.size();
        Kernel kernel = {"", "1024"};
        std::string word;
        while (at < code.size() && code[at] != '{' && code[at] != ';') {
            if (is_word(code[at])) {
                size_t end = at;
                while (end < code.size() && is_word(code[end])) ++end;
                word = code.substr(at, end - at);
                at = end;
            } else if (code[at] != '(') {
                ++at;
            } else {
                size_t end = skip_parentheses(code, at);
                std::string inside = code.substr(at + 1, end - at - 2);
                at = end;
                if (word == bounds) {
                    kernel.most = inside.substr(0, inside.find(','));
                } else if (word != "__attribute__" && word != "alignas") {
                    kernel.name = word;
                    break;
                }
            }
        }
        bool known = false;
        for (const Kernel &other : kernels) known = known || other.name == kernel.name;
        if (!kernel.name.empty() && !known) kernels.push_back(kernel);
    }
    return kernels;
}

/* `extern __shared__ T name[];` of a function becomes a pointer to what the launch asked for. */
std::string with_dynamic_memory(std::string text) {
    const std::string mark = "extern __shared__";
    for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos;) {
        size_t open = text.find('[', at), end = text.find(';', at);
        if (open == std::string::npos || end == std::string::npos || open > end) break;
        std::string type = text.substr(at + mark.size(), open - at - mark.size());
        while (!type.empty() && isspace((unsigned char)type.back())) type.pop_back();
        size_t start = type.size();
        while (start && is_word(type[start - 1])) --start;
        std::string name = type.substr(start);
        type.resize(start);
        std::string with = type + "*" + name + " = (" + type + "*)tbs_id->dynamic";
        text.replace(at, end - at, with);
        at += with.size();
    }
    return text;
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
    std::string text = with_dynamic_memory(source);
    for (const Kernel &kernel : kernels_of(source))
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
