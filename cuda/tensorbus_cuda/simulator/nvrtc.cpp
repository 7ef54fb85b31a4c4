/* NVRTC: CUDA C++ to an image that the simulated driver loads. */
#include "cu.h"
#include "grid.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>

extern "C" const char tbs_text_grid_kernel[], tbs_text_cuda_words[];

namespace {

enum nvrtcResult : int {
    NVRTC_SUCCESS = 0,
    NVRTC_ERROR_INVALID_INPUT = 3,
    NVRTC_ERROR_INVALID_PROGRAM = 4,
    NVRTC_ERROR_INVALID_OPTION = 5,
    NVRTC_ERROR_COMPILATION = 6,
    NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID = 10,
};

const char *const WORDS[] = {
    "NVRTC_SUCCESS", "NVRTC_ERROR_OUT_OF_MEMORY", "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
    "NVRTC_ERROR_INVALID_INPUT", "NVRTC_ERROR_INVALID_PROGRAM", "NVRTC_ERROR_INVALID_OPTION",
    "NVRTC_ERROR_COMPILATION", "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
    "NVRTC_ERROR_NO_NAME_EXPRESSIONS_AFTER_COMPILATION",
    "NVRTC_ERROR_NO_LOWERED_NAMES_BEFORE_COMPILATION", "NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID",
    "NVRTC_ERROR_INTERNAL_ERROR"};

struct Program {
    std::string source, name, log, ptx, cubin;
    bool compiled = false;
};
typedef Program *nvrtcProgram;

/* What NVRTC 13 compiles for, or the list of the setting "archs=75/90". */
std::vector<int> architectures() {
    std::vector<int> known;
    for (int k = 0; k < 64; ++k) {
        int arch = int(tbs_option_int(FAMILY, "archs", k, 0));
        if (!arch || (k && arch == known.back())) break;
        known.push_back(arch);
    }
    if (known.empty()) known = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};
    return known;
}

struct Options {
    int arch = 0;
    bool real = false;              /* sm_90 rather than compute_90 */
    bool contract = true, flush = false;
    std::vector<std::string> compiler;
};

bool starts(const std::string &text, const char *with, std::string *rest) {
    if (text.compare(0, strlen(with), with) != 0) return false;
    *rest = text.substr(strlen(with));
    return true;
}

bool truth(const std::string &value, bool *flag) {
    *flag = value == "true";
    return *flag || value == "false";
}

const char *const IGNORED[] = {
    "--device-as-default-execution-space", "-default-device", "--disable-warnings", "-w",
    "--generate-line-info", "-lineinfo", "--restrict", "-restrict", "--device-debug", "-G",
    "--relocatable-device-code=false", "-rdc=false", "--extra-device-vectorization",
    "--no-source-include", "--minimal", "--no-cache", "--display-error-number",
    "--prec-div=true", "-prec-div=true", "--prec-sqrt=true", "-prec-sqrt=true",
    "--prec-div=false", "-prec-div=false", "--prec-sqrt=false", "-prec-sqrt=false"};

/* One option; false if NVRTC has none such. */
bool take(const std::string &option, Options *options) {
    std::string rest;
    for (const char *known : IGNORED)
        if (option == known) return true;
    if (option == "--use_fast_math" || option == "-use_fast_math")
        return options->contract = options->flush = true;
    if (starts(option, "--fmad=", &rest) || starts(option, "-fmad=", &rest))
        return truth(rest, &options->contract);
    if (starts(option, "--ftz=", &rest) || starts(option, "-ftz=", &rest))
        return truth(rest, &options->flush);
    if (starts(option, "--std=", &rest) || starts(option, "-std=", &rest))
        return rest == "c++11" || rest == "c++14" || rest == "c++17" || rest == "c++20";
    if (starts(option, "--maxrregcount=", &rest) || starts(option, "-maxrregcount=", &rest)
        || starts(option, "--ptxas-options=", &rest) || starts(option, "--split-compile=", &rest))
        return true;
    if (starts(option, "--define-macro=", &rest) || starts(option, "-D", &rest)) {
        options->compiler.push_back("-D" + rest);
        return true;
    }
    if (starts(option, "--undefine-macro=", &rest) || starts(option, "-U", &rest)) {
        options->compiler.push_back("-U" + rest);
        return true;
    }
    if (starts(option, "--include-path=", &rest) || starts(option, "-I", &rest)) {
        options->compiler.push_back("-I" + rest);
        return true;
    }
    return false;
}

bool take_arch(const std::string &option, Options *options, std::string *log) {
    std::string value, number;
    if (!starts(option, "--gpu-architecture=", &value) && !starts(option, "-arch=", &value))
        return false;
    options->real = starts(value, "sm_", &number);
    if (options->real || starts(value, "compute_", &number)) options->arch = atoi(number.c_str());
    std::vector<int> known = architectures();
    if (std::find(known.begin(), known.end(), options->arch) == known.end())
        *log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n";
    return true;
}

std::string base64(const std::string &data) {
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    unsigned bits = 0, count = 0;
    for (unsigned char c : data + std::string(2, '\0')) {
        bits = bits << 8 | c;
        for (count += 8; count >= 6;) text += DIGITS[bits >> (count -= 6) & 63];
    }
    return text;
}

std::string ptx_of(const std::string &image, int arch, int version) {
    std::string text = std::string(PTX_MARK) + "\n.version " + std::to_string(version / 1000 - 4)
        + "." + std::to_string(version % 1000 / 10) + "\n.target sm_" + std::to_string(arch)
        + "\n.address_size 64\n";
    std::string digits = base64(image);
    for (size_t k = 0; k < digits.size(); k += 96) text += "//@" + digits.substr(k, 96) + "\n";
    return text;
}

nvrtcResult compile(Program *program, const Options &options) {
    std::vector<const char *> flags;
    for (const std::string &option : options.compiler) flags.push_back(option.c_str());
    /* NVRTC contracts unless told not to, and so do we; g++ does it among these only. */
    if (options.contract)
        flags.insert(flags.end(), {"-ffp-contract=fast", "-fexpensive-optimizations"});
    std::string arch = "-D__CUDA_ARCH__=" + std::to_string(10 * options.arch);
    flags.push_back(arch.c_str());
    char *text = tbs_grid_text(program->source.c_str());
    void *binary = nullptr;
    size_t size = 0;
    char *log = nullptr;
    const std::string words = std::string(tbs_text_grid_kernel) + tbs_text_cuda_words;
    tbs_status status = tbs_compile(program->name.c_str(), words.c_str(), text,
                                    flags.data(), int(flags.size()), nullptr, &binary, &size, &log);
    program->log = log ? log : "";
    free(log);
    free(text);
    if (!status) {
        Image head = {};
        memcpy(head.magic, IMAGE_MAGIC, sizeof head.magic);
        head.arch = uint32_t(options.arch);
        head.version = uint32_t(version_option("nvrtc", "13.0"));
        head.flush = options.flush;
        head.size = size;
        std::string image((const char *)&head, sizeof head);
        image.append((const char *)binary, size);
        program->ptx = ptx_of(image, options.arch, int(head.version));
        if (options.real) program->cubin = image;
        program->compiled = true;
    }
    free(binary);
    return status ? NVRTC_ERROR_COMPILATION : NVRTC_SUCCESS;
}

nvrtcResult give(const std::string &text, char *to, size_t extra) {
    if (!to) return NVRTC_ERROR_INVALID_INPUT;
    memcpy(to, text.c_str(), text.size() + extra);
    return NVRTC_SUCCESS;
}

nvrtcResult measure(size_t value, size_t *to) {
    if (!to) return NVRTC_ERROR_INVALID_INPUT;
    *to = value;
    return NVRTC_SUCCESS;
}

}  // namespace

CU_API const char *nvrtcGetErrorString(int result) {
    return result >= 0 && result < int(sizeof WORDS / sizeof *WORDS) ? WORDS[result]
                                                                     : "NVRTC_ERROR unknown";
}

CU_API nvrtcResult nvrtcVersion(int *major, int *minor) {
    if (!major || !minor) return NVRTC_ERROR_INVALID_INPUT;
    int version = version_option("nvrtc", "13.0");
    *major = version / 1000;
    *minor = version % 1000 / 10;
    return NVRTC_SUCCESS;
}

CU_API nvrtcResult nvrtcGetNumSupportedArchs(int *count) {
    if (!count) return NVRTC_ERROR_INVALID_INPUT;
    *count = int(architectures().size());
    return NVRTC_SUCCESS;
}

CU_API nvrtcResult nvrtcGetSupportedArchs(int *archs) {
    if (!archs) return NVRTC_ERROR_INVALID_INPUT;
    std::vector<int> known = architectures();
    std::copy(known.begin(), known.end(), archs);
    return NVRTC_SUCCESS;
}

CU_API nvrtcResult nvrtcCreateProgram(nvrtcProgram *program, const char *source, const char *name,
                                      int headers, const char *const *, const char *const *) {
    if (!program || !source || headers) return NVRTC_ERROR_INVALID_INPUT;
    *program = new Program;
    (*program)->source = source;
    (*program)->name = name && *name ? name : "default_program";
    return NVRTC_SUCCESS;
}

CU_API nvrtcResult nvrtcDestroyProgram(nvrtcProgram *program) {
    if (!program || !*program) return NVRTC_ERROR_INVALID_PROGRAM;
    delete *program;
    *program = nullptr;
    return NVRTC_SUCCESS;
}

CU_API nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int count, const char *const *given) {
    if (!program) return NVRTC_ERROR_INVALID_PROGRAM;
    if (count < 0 || (count && !given)) return NVRTC_ERROR_INVALID_INPUT;
    Options options;
    options.arch = architectures().front();
    program->log.clear();
    for (int k = 0; k < count; ++k) {
        std::string option = given[k], log;
        if (option == "-arch" && k + 1 < count) option = std::string("-arch=") + given[++k];
        if (!take_arch(option, &options, &log) && !take(option, &options))
            log = "nvrtc: error: unrecognized option " + option + " found\n";
        program->log += log;
    }
    if (!program->log.empty()) return NVRTC_ERROR_INVALID_OPTION;
    return compile(program, options);
}

CU_API nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t *size) {
    if (!program) return NVRTC_ERROR_INVALID_PROGRAM;
    return measure(program->log.size() + 1, size);
}
CU_API nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char *log) {
    return program ? give(program->log, log, 1) : NVRTC_ERROR_INVALID_PROGRAM;
}

CU_API nvrtcResult nvrtcGetPTXSize(nvrtcProgram program, size_t *size) {
    if (!program || !program->compiled) return NVRTC_ERROR_INVALID_PROGRAM;
    return measure(program->ptx.size() + 1, size);
}
CU_API nvrtcResult nvrtcGetPTX(nvrtcProgram program, char *ptx) {
    if (!program || !program->compiled) return NVRTC_ERROR_INVALID_PROGRAM;
    return give(program->ptx, ptx, 1);
}

/* Zero bytes if the target was no real architecture. */
CU_API nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t *size) {
    if (!program || !program->compiled) return NVRTC_ERROR_INVALID_PROGRAM;
    return measure(program->cubin.size(), size);
}
CU_API nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char *cubin) {
    if (!program || !program->compiled) return NVRTC_ERROR_INVALID_PROGRAM;
    return program->cubin.empty() ? NVRTC_ERROR_INVALID_PROGRAM : give(program->cubin, cubin, 0);
}

/* Kernels have to be extern "C": names of templates are not simulated. */
CU_API nvrtcResult nvrtcAddNameExpression(nvrtcProgram, const char *) {
    return NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID;
}
CU_API nvrtcResult nvrtcGetLoweredName(nvrtcProgram, const char *, const char **) {
    return NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID;
}
