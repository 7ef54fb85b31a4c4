/* MTLCompileOptions, MTLLibrary, MTLFunction, and the disk cache that Metal has as well. */
#include "metal.h"
#include "source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>

extern "C" const char tbs_text_msl[];       /* msl.h */

namespace sim {

namespace {

Class *options_class, *library_class, *function_class, *pipeline_class;

bool math_modes() { return atof(tbs_option("METAL", "macos", 0, "14.0")) >= 15; }

}  // namespace

/* -- the cache: binary and text side by side, so that no two sources are taken for one --------- */

namespace {

uint64_t fnv(const std::string &text) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3u;
    return hash;
}

std::string cached_path(const std::string &key) {
    const char *folder = getenv("TENSORBUS_SIMULATE_METAL_CACHE");
    if (!folder || !*folder) return "";
    char name[32];
    snprintf(name, sizeof name, "/%016llx", (unsigned long long)fnv(key));
    return folder + std::string(name);
}

std::string read_file(const std::string &path) {
    std::string text;
    if (FILE *file = fopen(path.c_str(), "rb")) {
        char part[65536];
        for (size_t got; (got = fread(part, 1, sizeof part, file)) > 0;) text.append(part, got);
        fclose(file);
    }
    return text;
}

/* An entry is the key's length, the key, the binary. */
std::string cached(const std::string &key) {
    std::string path = cached_path(key), entry = path.empty() ? "" : read_file(path);
    std::string head = std::to_string(key.size()) + "\n" + key;
    return entry.compare(0, head.size(), head) == 0 ? entry.substr(head.size()) : "";
}

void keep(const std::string &key, const void *binary, size_t size) {
    static std::atomic<unsigned> count{0};
    std::string path = cached_path(key);
    if (path.empty()) return;
    mkdir(getenv("TENSORBUS_SIMULATE_METAL_CACHE"), 0700);
    std::string fresh = path + "." + std::to_string(getpid()) + "." + std::to_string(++count);
    FILE *file = fopen(fresh.c_str(), "wb");
    if (!file) return;
    std::string head = std::to_string(key.size()) + "\n" + key;
    bool complete = fwrite(head.data(), 1, head.size(), file) == head.size()
        && fwrite(binary, 1, size, file) == size;
    if (fclose(file) == 0 && complete && rename(fresh.c_str(), path.c_str()) == 0) return;
    unlink(fresh.c_str());
}

}  // namespace

/* -- from source to library -------------------------------------------------------------------- */

static Library *compile(const std::string &source, bool fast, std::string *log) {
    Translation translated = translate(source);
    *log = translated.errors;
    if (!log->empty()) return nullptr;
    std::vector<const char *> options{"-fsigned-char"};
    /* As on Apple's GPUs: a product and a sum are one fma unless the source forbids it. */
    if (source.find("#pragma METAL fp contract(off)") == std::string::npos) {
        options.push_back("-ffp-contract=fast");
        options.push_back("-O2");       /* g++ does not fuse at -O1 */
    }
    if (fast) options.push_back("-ffast-math");
    std::string key = tbs_text_msl;
    for (const char *option : options) key += std::string(option) + "\n";
    const char *cxx = getenv("TENSORBUS_SIMULATE_CXX");
    key += std::string(cxx ? cxx : "") + "\n" + translated.text;
    std::string binary = cached(key);
    if (!binary.empty()) {
        /* The cache must not swallow a failure on demand. */
        if (tbs_trip("compile")) {
            *log = "internal error: the compiler failed (on demand)\n";
            return nullptr;
        }
    } else {
        void *made = nullptr;
        size_t size = 0;
        char *words = nullptr;
        tbs_status status = tbs_compile("program_source", tbs_text_msl, translated.text.c_str(),
                                        options.data(), int(options.size()), nullptr, &made, &size,
                                        &words);
        *log = words ? words : "";
        free(words);
        if (status) {
            if (log->empty()) *log = tbs_message();
            return nullptr;
        }
        keep(key, made, size);
        binary.assign((const char *)made, size);
        free(made);
    }
    tbs_module *module = nullptr;
    if (tbs_load(binary.data(), binary.size(), &module)) {
        *log = tbs_message();
        return nullptr;
    }
    return new Library(module, translated.kernels);
}

Library::Library(tbs_module *module, const std::map<std::string, std::vector<int>> &kernels)
    : Object(library_class), module(module), kernels(kernels) {}

Library::~Library() { tbs_unload(module); }

Function::Function(Library *library, const std::string &name)
    : Object(function_class), library(library), name(name) {}

Pipeline::Pipeline(Device *device, Function *function)
    : Object(pipeline_class), device(device), library(function->library),
      body((void (*)(void *))tbs_symbol(function->library->module,
                                        ("tbs_entry_" + function->name).c_str())),
      buffers(function->library->kernels[function->name]) {}

NSUInteger Pipeline::most() const { return NSUInteger(device->number("threads", 1024)); }

CompileOptions::CompileOptions() : Object(options_class) {}

namespace {

Object *new_options(Class *, SEL) { return new CompileOptions; }
void set_fast(CompileOptions *self, SEL, signed char value) { self->fast = value != 0; }
void set_mode(CompileOptions *self, SEL, long mode) { self->fast = mode != 0; }
void set_functions(CompileOptions *, SEL, long) {}
void set_version(CompileOptions *, SEL, NSUInteger version) {
    if (version < (2u << 16) + 2) assertion("MSL before 2.2 has no 64-bit integers");
}

Library *new_library(Device *, SEL, String *source, CompileOptions *options, Object **error) {
    std::string log;
    Library *made = compile(source->text, !options || options->fast, &log);
    if (!made && error) *error = autorelease(new Error(3, log));
    return made;
}

Function *new_function(Library *self, SEL, String *name) {
    if (!self->kernels.count(name->text)) return nullptr;
    return new Function(self, name->text);
}

Pipeline *new_pipeline(Device *self, SEL, Function *function, Object **error) {
    Pipeline *made = new Pipeline(self, function);
    if (made->body) return made;
    release(made);
    if (error) *error = autorelease(new Error(2, tbs_message()));
    return nullptr;
}

NSUInteger most_threads(Pipeline *self, SEL) { return self->most(); }
NSUInteger width(Pipeline *, SEL) { return 32; }

}  // namespace

void setup_compiler() {
    options_class = new Class("MTLCompileOptions");
    options_class->class_method("new", imp(new_options))
        .method("setFastMathEnabled:", imp(set_fast))
        .method("setLanguageVersion:", imp(set_version));
    if (math_modes())
        options_class->method("setMathMode:", imp(set_mode))
            .method("setMathFloatingPointFunctions:", imp(set_functions));
    library_class = new Class("MTLLibrary");
    library_class->method("newFunctionWithName:", imp(new_function));
    function_class = new Class("MTLFunction");
    pipeline_class = new Class("MTLComputePipelineState");
    pipeline_class->method("maxTotalThreadsPerThreadgroup", imp(most_threads))
        .method("threadExecutionWidth", imp(width));
    device_class->method("newLibraryWithSource:options:error:", imp(new_library))
        .method("newComputePipelineStateWithFunction:error:", imp(new_pipeline));
}

}  // namespace sim
