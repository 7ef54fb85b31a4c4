/* Modules, functions and launches. */
#include "cu.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>

namespace {

/* Bytes of static shared memory by kernel: a local static x of f is `_ZZ1fE1x`, or `_ZZ1fvE1x`. */
std::map<std::string, size_t> shared_sizes(const char *library, size_t bytes) {
    std::map<std::string, size_t> sizes;
    const Elf64_Ehdr *head = (const Elf64_Ehdr *)library;
    if (bytes < sizeof *head || memcmp(head->e_ident, ELFMAG, SELFMAG) != 0) return sizes;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(library + head->e_shoff);
    const char *titles = library + sections[head->e_shstrndx].sh_offset;
    int wanted = -1;
    for (int k = 0; k < head->e_shnum; ++k)
        if (strcmp(titles + sections[k].sh_name, "tb_shared") == 0) wanted = k;
    for (int k = 0; k < head->e_shnum; ++k) {
        if (sections[k].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *symbols = (const Elf64_Sym *)(library + sections[k].sh_offset);
        const char *names = library + sections[sections[k].sh_link].sh_offset;
        for (size_t n = 0; n < sections[k].sh_size / sizeof *symbols; ++n) {
            if (symbols[n].st_shndx != wanted) continue;
            const char *name = names + symbols[n].st_name;
            if (strncmp(name, "_ZZ", 3) != 0) continue;
            char *at;
            size_t length = strtoul(name + 3, &at, 10);
            sizes[std::string(at, strnlen(at, length))] += (symbols[n].st_size + 15) / 16 * 16;
        }
    }
    return sizes;
}

int base64(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* The image in the comments of PTX that the simulated NVRTC wrote. */
std::string image_in(const char *ptx) {
    std::string image;
    unsigned bits = 0, count = 0;
    for (const char *line = strstr(ptx, "\n//@"); line; line = strstr(line + 1, "\n//@"))
        for (const char *c = line + 4; base64(*c) >= 0; ++c) {
            bits = bits << 6 | unsigned(base64(*c));
            if ((count += 6) >= 8) image += char(bits >> (count -= 8));
        }
    return image;
}

CUresult make(CUcontext context, const Image &head, const char *library, bool ptx,
              CUmodule *module) {
    tbs_module *loaded;
    tbs_status status = tbs_load(library, head.size, &loaded);
    if (status == TBS_INVALID) return CUDA_ERROR_INVALID_IMAGE;
    if (status) return result_of(status);
    *module = new CUmod_st{context, loaded, ptx, int(head.arch), int(head.version), head.flush != 0,
                           shared_sizes(library, head.size), {}};
    handles().modules.insert(*module);
    return CUDA_SUCCESS;
}

/* Machine code runs on its own architecture and on later ones of the same major number. */
bool runs_on(int arch, int device) {
    return arch / 10 == capability(device) / 10 && arch <= capability(device);
}

CUresult load(CUmodule *module, const void *data, std::string *log) {
    Here here;
    if (here.status) return here.status;
    if (!module || !data) return CUDA_ERROR_INVALID_VALUE;
    const char *bytes = (const char *)data;
    Image head;
    if (strncmp(bytes, IMAGE_MAGIC, 8) == 0) {
        memcpy(&head, bytes, sizeof head);
        if (!runs_on(int(head.arch), here.device)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
        /* The format of machine code changes with major versions. */
        if (int(head.version) / 1000 > driver_version() / 1000) return CUDA_ERROR_INVALID_IMAGE;
        return make(here.context, head, bytes + sizeof head, false, module);
    }
    if (strncmp(bytes, "\x7f""ELF", 4) == 0) return CUDA_ERROR_INVALID_IMAGE;
    if (strncmp(bytes, PTX_MARK, strlen(PTX_MARK)) != 0) {
        *log = "ptxas application ptx input, line 1; fatal   : this is no PTX of the simulator";
        return CUDA_ERROR_INVALID_PTX;
    }
    std::string image = image_in(bytes);
    if (image.size() < sizeof head) return CUDA_ERROR_INVALID_PTX;
    memcpy(&head, image.data(), sizeof head);
    if (image.size() < sizeof head + head.size) return CUDA_ERROR_INVALID_PTX;
    if (int(head.version) > driver_version()) {
        *log = "ptxas application ptx input; fatal   : Unsupported .version";
        return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    }
    if (int(head.arch) > capability(here.device)) {
        *log = "ptxas application ptx input; fatal   : SM version specified by .target is higher "
               "than default SM version assumed";
        return CUDA_ERROR_INVALID_PTX;
    }
    return make(here.context, head, image.data() + sizeof head, true, module);
}

/* Fills the log buffers that the caller gave, and says how much. */
void write_logs(unsigned count, const int *options, void **values, const std::string &log) {
    for (unsigned k = 0; k + 1 < count; ++k) {
        const bool info = options[k] == 3 && options[k + 1] == 4;
        const bool error = options[k] == 5 && options[k + 1] == 6;
        if (!info && !error) continue;
        const std::string text = error ? log : "";
        const size_t room = size_t(values[k + 1]);
        const size_t length = text.size() < room ? text.size() : room;
        memcpy(values[k], text.data(), length);
        if (length < room) ((char *)values[k])[length] = 0;
        values[k + 1] = (void *)length;
    }
}

bool good(CUfunction function) {
    Call call;
    return handles().functions.count(function) != 0;
}

void unload(CUmodule module) {
    for (auto &item : module->functions) {
        handles().functions.erase(item.second);
        delete item.second;
    }
    handles().modules.erase(module);
    tbs_unload(module->module);
    delete module;
}

/* The arguments as one block, from pointers or from the caller's own block. */
CUresult gather(CUfunction function, void **pointers, void **extra, std::vector<char> *block) {
    block->assign(function->bytes() + 16, 0);
    if (extra) {
        const char *data = nullptr;
        const size_t *size = nullptr;
        for (void **at = extra; *at; at += 2) {
            if (uintptr_t(*at) == 1) data = (const char *)at[1];
            else if (uintptr_t(*at) == 2) size = (const size_t *)at[1];
            else return CUDA_ERROR_INVALID_VALUE;
        }
        if (function->bytes() && (!data || !size || *size < function->bytes()))
            return CUDA_ERROR_INVALID_VALUE;
        if (function->bytes()) memcpy(block->data(), data, function->bytes());
        return CUDA_SUCCESS;
    }
    if (function->count() && !pointers) return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t k = 0; k < function->count(); ++k) {
        if (!pointers[k]) return CUDA_ERROR_INVALID_VALUE;
        memcpy(block->data() + function->offset(k), pointers[k], function->size(k));
    }
    return CUDA_SUCCESS;
}

CUresult check_shape(CUfunction function, const uint32_t *groups, const uint32_t *threads,
                     size_t dynamic) {
    const uint64_t count = uint64_t(threads[0]) * threads[1] * threads[2];
    for (int k = 0; k < 3; ++k)
        if (groups[k] == 0 || threads[k] == 0 || threads[k] > (k < 2 ? 1024u : 64u)
            || groups[k] > (k ? 65535u : 2147483647u))
            return CUDA_ERROR_INVALID_VALUE;
    if (count > 1024) return CUDA_ERROR_INVALID_VALUE;
    if (count > function->most_threads()) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    const size_t limit = function->dynamic_limit > 49152 ? function->dynamic_limit
                                                         : 49152 - function->shared;
    return function->shared > 49152 || dynamic > limit ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult launch(CUfunction function, const uint32_t *groups, const uint32_t *threads,
                size_t dynamic, CUstream given, void **pointers, void **extra) {
    Here here;
    if (here.status) return here.status;
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    CUstream stream;
    if (CUresult bad = find_stream(here.context, given, &stream)) return bad;
    if (stream->context != function->module->context) return CUDA_ERROR_INVALID_HANDLE;
    if (pointers && extra) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult bad = check_shape(function, groups, threads, dynamic)) return bad;
    auto block = std::make_shared<std::vector<char>>();
    if (CUresult bad = gather(function, pointers, extra, block.get())) return bad;
    const int device = stream->context->device;
    if (CUresult refused = submit(device, "launch")) return refused;
    struct Shape {
        uint32_t groups[3], threads[3];
    } shape;
    memcpy(shape.groups, groups, sizeof shape.groups);
    memcpy(shape.threads, threads, sizeof shape.threads);
    CUmodule module = function->module;
    auto entry = function->entry;
    return enqueue_call(stream, [=] {
        tbs_status status = tbs_run(device, module->module, entry, block->data(), shape.groups,
                                    shape.threads, dynamic, module->flush);
        /* In CUDA a kernel that fails takes its context along. */
        if (status) tbs_device_fail(device, status);
        return status;
    });
}

}  // namespace

void release_modules(CUcontext context) {
    auto &modules = handles().modules;
    for (auto at = modules.begin(); at != modules.end();) {
        CUmodule module = *at++;
        if (module->context == context) unload(module);
    }
}

CU_API CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count,
                                   int *options, void **values) {
    std::string log;
    CUresult status = load(module, image, &log);
    write_logs(count, options, values, log);
    return status;
}
CU_API CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr);
}

CU_API CUresult cuModuleLoad(CUmodule *module, const char *path) {
    if (!path) return CUDA_ERROR_INVALID_VALUE;
    FILE *file = fopen(path, "rb");
    if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
    std::vector<char> image;
    char part[65536];
    for (size_t got; (got = fread(part, 1, sizeof part, file)) > 0;)
        image.insert(image.end(), part, part + got);
    fclose(file);
    image.resize(image.size() + sizeof(Image));
    return cuModuleLoadData(module, image.data());
}

CU_API CUresult cuModuleUnload(CUmodule module) {
    Here here(true);
    if (here.status) return here.status;
    if (!handles().modules.count(module)) return CUDA_ERROR_INVALID_HANDLE;
    unload(module);
    return CUDA_SUCCESS;
}

CU_API CUresult cuModuleGetLoadingMode(int *mode) { return *mode = 1, CUDA_SUCCESS; }

CU_API CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    Here here;
    if (here.status) return here.status;
    if (!function || !name) return CUDA_ERROR_INVALID_VALUE;
    if (!handles().modules.count(module)) return CUDA_ERROR_INVALID_HANDLE;
    CUfunction &found = module->functions[name];
    if (!found) {
        std::string text = name;
        void *info = tbs_symbol(module->module, ("tbs_info_" + text).c_str());
        void *entry = tbs_symbol(module->module, ("tbs_entry_" + text).c_str());
        if (!info || !entry) {
            module->functions.erase(name);
            return CUDA_ERROR_NOT_FOUND;
        }
        auto shared = module->shared.find(text);
        found = new CUfunc_st;
        found->module = module;
        found->name = text;
        found->entry = (void (*)(void *))entry;
        found->info = (const uint32_t *)info;
        found->shared = shared == module->shared.end() ? 0 : shared->second;
        handles().functions.insert(found);
    }
    *function = found;
    return CUDA_SUCCESS;
}

CU_API CUresult cuFuncGetAttribute(int *value, int attribute, CUfunction function) {
    Here here;
    if (here.status) return here.status;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    CUmodule module = function->module;
    switch (attribute) {
    case 0: *value = int(function->most_threads()); break;
    case 1: *value = int(function->shared); break;
    case 4: *value = 32; break;
    case 5: *value = module->arch; break;
    case 6: *value = module->ptx ? capability(here.device) : module->arch; break;
    case 8: *value = int(function->dynamic_limit ? function->dynamic_limit
                                                 : 49152 - function->shared); break;
    case 9: *value = -1; break;
    default:
        if (attribute < 0 || attribute > 15) return CUDA_ERROR_INVALID_VALUE;
        *value = 0;
    }
    return CUDA_SUCCESS;
}

CU_API CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
    Here here;
    if (here.status) return here.status;
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    if (attribute == 9) return CUDA_SUCCESS;
    if (attribute != 8 || value < 0) return CUDA_ERROR_INVALID_VALUE;
    int most;
    cuDeviceGetAttribute(&most, 97, here.device);
    if (size_t(value) + function->shared > size_t(most)) return CUDA_ERROR_INVALID_VALUE;
    function->dynamic_limit = uint32_t(value);
    return CUDA_SUCCESS;
}

CU_API CUresult cuFuncSetCacheConfig(CUfunction function, int) {
    return good(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
CU_API CUresult cuFuncSetSharedMemConfig(CUfunction function, int) {
    return good(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CU_API CUresult cuFuncGetModule(CUmodule *module, CUfunction function) {
    if (!module) return CUDA_ERROR_INVALID_VALUE;
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    *module = function->module;
    return CUDA_SUCCESS;
}

CU_API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz,
                               unsigned tx, unsigned ty, unsigned tz, unsigned dynamic,
                               CUstream stream, void **pointers, void **extra) {
    const uint32_t groups[] = {gx, gy, gz}, threads[] = {tx, ty, tz};
    return launch(function, groups, threads, dynamic, stream, pointers, extra);
}

struct LaunchConfig {               /* CUlaunchConfig */
    uint32_t groups[3], threads[3], dynamic;
    CUstream stream;
    void *attributes;
    uint32_t attribute_count;
};

CU_API CUresult cuLaunchKernelEx(const LaunchConfig *config, CUfunction function, void **pointers,
                                 void **extra) {
    if (!config) return CUDA_ERROR_INVALID_VALUE;
    if (config->attribute_count) return CUDA_ERROR_NOT_SUPPORTED;
    return launch(function, config->groups, config->threads, config->dynamic, config->stream,
                  pointers, extra);
}

/* -- the launch API of CUDA 3, which pycuda's prepared calls may use -- */

CU_API CUresult cuFuncSetBlockShape(CUfunction function, int x, int y, int z) {
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    if (x < 1 || y < 1 || z < 1) return CUDA_ERROR_INVALID_VALUE;
    const int shape[] = {x, y, z};
    for (int k = 0; k < 3; ++k) function->block[k] = uint32_t(shape[k]);
    return CUDA_SUCCESS;
}
CU_API CUresult cuFuncSetSharedSize(CUfunction function, unsigned bytes) {
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    function->dynamic = bytes;
    return CUDA_SUCCESS;
}
CU_API CUresult cuParamSetSize(CUfunction function, unsigned bytes) {
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    function->parameters.resize(bytes);
    return CUDA_SUCCESS;
}
CU_API CUresult cuParamSetv(CUfunction function, int offset, void *data, unsigned bytes) {
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    if (offset < 0 || !data) return CUDA_ERROR_INVALID_VALUE;
    if (function->parameters.size() < size_t(offset) + bytes)
        function->parameters.resize(size_t(offset) + bytes);
    memcpy(function->parameters.data() + offset, data, bytes);
    return CUDA_SUCCESS;
}
CU_API CUresult cuParamSeti(CUfunction function, int offset, unsigned value) {
    return cuParamSetv(function, offset, &value, sizeof value);
}
CU_API CUresult cuParamSetf(CUfunction function, int offset, float value) {
    return cuParamSetv(function, offset, &value, sizeof value);
}
CU_API CUresult cuLaunchGridAsync(CUfunction function, int width, int height, CUstream stream) {
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    const uint32_t groups[] = {uint32_t(width), uint32_t(height), 1};
    size_t bytes = function->parameters.size();
    void *extra[] = {(void *)1, function->parameters.data(), (void *)2, &bytes, nullptr};
    return launch(function, groups, function->block, function->dynamic, stream, nullptr, extra);
}
CU_API CUresult cuLaunchGrid(CUfunction function, int width, int height) {
    return cuLaunchGridAsync(function, width, height, nullptr);
}
CU_API CUresult cuLaunch(CUfunction function) { return cuLaunchGrid(function, 1, 1); }

/* -- occupancy: registers never limit it here -- */

CU_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function,
                                                            int threads, size_t dynamic) {
    Here here;
    if (here.status) return here.status;
    if (!blocks || threads < 1) return CUDA_ERROR_INVALID_VALUE;
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    const int rounded = (threads + 31) / 32 * 32;
    const size_t used = function->shared + dynamic + 1024;
    const int by_memory = int(233472 / used), by_threads = 2048 / rounded;
    *blocks = by_memory < by_threads ? by_memory : by_threads;
    if (*blocks > 32) *blocks = 32;
    if (threads > int(function->most_threads())) *blocks = 0;
    return CUDA_SUCCESS;
}

CU_API CUresult cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction function,
                                                 size_t (*dynamic_of)(int), size_t dynamic,
                                                 int limit) {
    if (!grid || !block) return CUDA_ERROR_INVALID_VALUE;
    if (!good(function)) return CUDA_ERROR_INVALID_HANDLE;
    *block = int(function->most_threads());
    if (limit > 0 && limit < *block) *block = limit;
    int each = 0, processors = 0;
    CUresult status = cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &each, function, *block, dynamic_of ? dynamic_of(*block) : dynamic);
    if (status) return status;
    status = cuDeviceGetAttribute(&processors, 16, function->module->context->device);
    *grid = each * processors;
    return status;
}
