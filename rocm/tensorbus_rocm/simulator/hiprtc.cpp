/* hiprtc: HIP C++ to code objects for the simulated devices. */
#include "hip.h"

#include <stdlib.h>
#include <string.h>

#include <set>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

extern "C" const char tbs_text_grid_kernel[], tbs_text_hip_words[];

namespace {

enum {
    HIPRTC_SUCCESS = 0,
    HIPRTC_ERROR_INVALID_INPUT = 3,
    HIPRTC_ERROR_INVALID_PROGRAM = 4,
    HIPRTC_ERROR_COMPILATION = 6,
    HIPRTC_ERROR_INTERNAL_ERROR = 11
};

struct Program {
    std::string source, name, log, code;
};

std::set<Program *> &programs() {
    static auto *the = new std::set<Program *>;
    return *the;
}

Program *find(void *handle) {
    tbs_lock();
    bool known = programs().count((Program *)handle) != 0;
    tbs_unlock();
    return known ? (Program *)handle : nullptr;
}

bool starts(const std::string &text, const char *with) { return text.rfind(with, 0) == 0; }

/* What the options ask for; false if one of them is unknown (the log says which). */
struct Wishes {
    std::string arch;
    bool flush = false;
    std::vector<const char *> passed;       /* to the compiler of the executor */

    bool read(int count, const char *const *options, std::string *log) {
        bool contract = true;               /* as hiprtc has it if nothing is said */
        for (int k = 0; k < count; ++k) {
            std::string option = options[k];
            if (starts(option, "--offload-arch=")) arch = option.substr(15);
            else if (starts(option, "--gpu-architecture=")) arch = option.substr(19);
            else if (option == "-ffp-contract=off") contract = false;
            else if (option == "-fgpu-flush-denormals-to-zero") flush = true;
            else if (option == "-fno-gpu-flush-denormals-to-zero") flush = false;
            else if (option == "-ffast-math" || starts(option, "-D") || starts(option, "-std="))
                passed.push_back(options[k]);
            else if (!starts(option, "-O") && !starts(option, "-W")
                     && option != "-fno-fast-math"
                     && option != "-fhip-fp32-correctly-rounded-divide-sqrt") {
                *log = "error: unknown argument: '" + option + "'\n";
                return false;
            }
        }
        /* g++ contracts with its expensive optimizations only. */
        if (contract) passed.insert(passed.end(), {"-ffp-contract=fast", "-O2"});
        if (arch.empty()) arch = hip::arch(0);
        if (!starts(arch, "gfx") || arch.size() < 6) {
            *log = "error: invalid target ID '" + arch + "'\n";
            return false;
        }
        return true;
    }
};

}  // namespace

EXPORT int hiprtcVersion(int *major, int *minor) {
    if (!major || !minor) return HIPRTC_ERROR_INVALID_INPUT;
    if (sscanf(hip::version().c_str(), "%d.%d", major, minor) != 2 || TBS_HIP_MAJOR < 6) {
        *major = 9;                         /* as HIP 5 says */
        *minor = 0;
    }
    return HIPRTC_SUCCESS;
}

EXPORT const char *hiprtcGetErrorString(int status) {
    switch (status) {
    case HIPRTC_SUCCESS: return "HIPRTC_SUCCESS";
    case HIPRTC_ERROR_INVALID_INPUT: return "HIPRTC_ERROR_INVALID_INPUT";
    case HIPRTC_ERROR_INVALID_PROGRAM: return "HIPRTC_ERROR_INVALID_PROGRAM";
    case HIPRTC_ERROR_COMPILATION: return "HIPRTC_ERROR_COMPILATION";
    case HIPRTC_ERROR_INTERNAL_ERROR: return "HIPRTC_ERROR_INTERNAL_ERROR";
    }
    return "Invalid HIPRTC error code";
}

EXPORT int hiprtcCreateProgram(void **handle, const char *source, const char *name, int headers,
                               const char **, const char **) {
    if (!handle || !source || headers < 0) return HIPRTC_ERROR_INVALID_INPUT;
    Program *program = new Program{source, name ? name : "CompileSource", "", ""};
    tbs_lock();
    programs().insert(program);
    tbs_unlock();
    *handle = program;
    return HIPRTC_SUCCESS;
}

EXPORT int hiprtcDestroyProgram(void **handle) {
    Program *program = handle ? find(*handle) : nullptr;
    if (!program) return HIPRTC_ERROR_INVALID_PROGRAM;
    tbs_lock();
    programs().erase(program);
    tbs_unlock();
    delete program;
    *handle = nullptr;
    return HIPRTC_SUCCESS;
}

EXPORT int hiprtcCompileProgram(void *handle, int count, const char **options) {
    Program *program = find(handle);
    if (!program) return HIPRTC_ERROR_INVALID_PROGRAM;
    if (tbs_forked()) return HIPRTC_ERROR_INTERNAL_ERROR;
    Wishes wishes;
    if (!wishes.read(count, options, &program->log)) return HIPRTC_ERROR_COMPILATION;
    std::string words = std::string(tbs_text_grid_kernel) + tbs_text_hip_words;
    char *text = tbs_grid_text(program->source.c_str()), *log = nullptr;
    void *binary = nullptr;
    size_t size = 0;
    tbs_status status = tbs_compile(program->name.c_str(), words.c_str(), text,
                                    wishes.passed.data(), (int)wishes.passed.size(), nullptr,
                                    &binary, &size, &log);
    program->log = log ? log : "";
    if (status == TBS_OK) {
        hip::Code code = {};
        memcpy(code.magic, hip::MAGIC, sizeof code.magic);
        strncpy(code.arch, wishes.arch.c_str(), sizeof code.arch - 1);
        code.flush = wishes.flush;
        uint64_t length = size;
        program->code.assign((const char *)&code, sizeof code);
        program->code.append((const char *)&length, sizeof length);
        program->code.append((const char *)binary, size);
    }
    free(text);
    free(log);
    free(binary);
    return status == TBS_OK ? HIPRTC_SUCCESS : HIPRTC_ERROR_COMPILATION;
}

EXPORT int hiprtcGetProgramLogSize(void *handle, size_t *size) {
    Program *program = find(handle);
    if (!program || !size) return HIPRTC_ERROR_INVALID_INPUT;
    *size = program->log.size() + 1;
    return HIPRTC_SUCCESS;
}

EXPORT int hiprtcGetProgramLog(void *handle, char *log) {
    Program *program = find(handle);
    if (!program || !log) return HIPRTC_ERROR_INVALID_INPUT;
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return HIPRTC_SUCCESS;
}

EXPORT int hiprtcGetCodeSize(void *handle, size_t *size) {
    Program *program = find(handle);
    if (!program || !size) return HIPRTC_ERROR_INVALID_INPUT;
    if (program->code.empty()) return HIPRTC_ERROR_INVALID_PROGRAM;
    *size = program->code.size();
    return HIPRTC_SUCCESS;
}

EXPORT int hiprtcGetCode(void *handle, char *code) {
    Program *program = find(handle);
    if (!program || !code) return HIPRTC_ERROR_INVALID_INPUT;
    if (program->code.empty()) return HIPRTC_ERROR_INVALID_PROGRAM;
    memcpy(code, program->code.data(), program->code.size());
    return HIPRTC_SUCCESS;
}
