/* Kernels: from text to a library in memory, and from there into the process. */
#include "internal.h"
#include "module.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#ifndef TBS_CXX
#define TBS_CXX "c++"
#endif
#ifndef TBS_KERNEL_FLAGS
#define TBS_KERNEL_FLAGS ""
#endif

extern char **environ;
extern "C" const char tbs_text_kernel[];    /* kernel.h */

namespace {

/* A folder that goes away with the object. */
class Folder {
public:
    Folder() {
        const char *base = getenv("TMPDIR");
        path = std::string(base && *base ? base : "/tmp") + "/tensorbus-XXXXXX";
        if (!mkdtemp(&path[0])) path.clear();
    }
    ~Folder() {
        for (const std::string &file : files) unlink(file.c_str());
        if (!path.empty()) rmdir(path.c_str());
    }
    std::string file(const char *name) {
        files.push_back(path + "/" + name);
        return files.back();
    }
    std::string path;
private:
    std::vector<std::string> files;
};

bool write_file(const std::string &path, const char *data, size_t size) {
    FILE *file = fopen(path.c_str(), "wb");
    if (!file) return false;
    bool complete = fwrite(data, 1, size, file) == size;
    return fclose(file) == 0 && complete;
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

void split(const char *text, std::vector<std::string> *words) {
    std::string word;
    for (;; ++text) {
        if (*text && *text != ' ') {
            word += *text;
            continue;
        }
        if (!word.empty()) words->push_back(word);
        word.clear();
        if (!*text) return;
    }
}

void replace_all(std::string *text, const std::string &what, const std::string &with) {
    for (size_t at = 0; (at = text->find(what, at)) != std::string::npos; at += with.size())
        text->replace(at, what.size(), with);
}

std::vector<std::string> command(const char *compiler, const char *const *options, int count) {
    if (!compiler) compiler = getenv("TENSORBUS_SIMULATE_CXX");
    if (!compiler || !*compiler) compiler = TBS_CXX;
    std::vector<std::string> words;
    split(compiler, &words);
    /* Contraction, aliasing and overflow as on the devices; messages in plain ASCII. */
    split("-x c++ -std=c++17 -O1 -fPIC -shared -w -ffp-contract=off -fno-strict-aliasing -fwrapv "
          "-fno-math-errno -fno-trapping-math -fno-exceptions -fno-rtti -fno-stack-protector "
          "-fno-asynchronous-unwind-tables -fdiagnostics-color=never", &words);
#ifndef __APPLE__
    words.push_back("-Wl,-Bsymbolic,-z,defs");
#endif
    /* Statics of g++'s templates would otherwise be one for all modules of the process. */
    if (words[0].find("clang") == std::string::npos) words.push_back("-fno-gnu-unique");
    split(TBS_KERNEL_FLAGS, &words);
    words.insert(words.end(), options, options + count);
    return words;
}

/* The exit status, or -1 if the program could not be started; its own files go to `folder`. */
int run_program(const std::vector<std::string> &words, const std::string &folder,
                const std::string &log) {
    std::vector<char *> arguments;
    for (const std::string &word : words) arguments.push_back(const_cast<char *>(word.c_str()));
    arguments.push_back(nullptr);
    std::vector<char *> variables;
    for (char **variable = environ; *variable; ++variable)
        if (strncmp(*variable, "LC_ALL=", 7) != 0 && strncmp(*variable, "TMPDIR=", 7) != 0)
            variables.push_back(*variable);
    std::string temporary = "TMPDIR=" + folder;
    variables.push_back(const_cast<char *>("LC_ALL=C"));
    variables.push_back(const_cast<char *>(temporary.c_str()));
    variables.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    pid_t child;
    int error = posix_spawnp(&child, arguments[0], &files, nullptr, arguments.data(),
                             variables.data());
    posix_spawn_file_actions_destroy(&files);
    if (error) {
        errno = error;
        return -1;
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string first_error(const std::string &log) {
    size_t at = log.find("error:");
    if (at == std::string::npos) at = 0;
    size_t start = log.rfind('\n', at) + 1;     /* npos + 1 is 0 */
    return log.substr(start, log.find('\n', start) - start);
}

char *copy_of(const std::string &text) {
    char *copy = (char *)malloc(text.size() + 1);
    if (copy) memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
}

/* A C string literal may hold any file name. */
std::string line_of(const char *name) {
    std::string line = "\n#line 1 \"";
    for (; *name; ++name) {
        if (*name == '"' || *name == '\\') line += '\\';
        if (*name != '\n') line += *name;
    }
    return line + "\"\n";
}

}  // namespace

using namespace tbs;

extern "C" {

tbs_status tbs_compile(const char *name, const char *include, const char *text,
                       const char *const *options, int option_count, const char *compiler,
                       void **binary, size_t *size, char **log) {
    *binary = nullptr;
    *size = 0;
    *log = copy_of("");
    TBS_REFUSE_FORKED(TBS_LOST);
    if (tbs_trip("compile")) {
        free(*log);
        *log = copy_of("internal error: the compiler failed (on demand)\n");
        return fail(TBS_COMPILE, "the compiler failed (on demand)");
    }
    Folder folder;
    std::string source = folder.file("kernel.cpp"), output = folder.file("kernel.so");
    std::string messages = folder.file("log");
    std::string whole = std::string("#line 1 \"kernel.h\"\n") + tbs_text_kernel
        + "\n#line 1 \"include.h\"\n" + (include ? include : "") + line_of(name) + text + "\n";
    if (folder.path.empty() || !write_file(source, whole.data(), whole.size()))
        return fail(TBS_COMPILE, "no temporary file can be written (%s); set TMPDIR",
                    strerror(errno));
    std::vector<std::string> words = command(compiler, options, option_count);
    words.insert(words.end(), {source, "-o", output});
    int status = run_program(words, folder.path, messages);
    std::string said = status < 0
        ? "the compiler '" + words[0] + "' cannot be started: " + strerror(errno) + "\n"
        : read_file(messages);
    replace_all(&said, source, name);
    replace_all(&said, folder.path + "/", "");
    free(*log);
    *log = copy_of(said);
    if (status) return fail(TBS_COMPILE, "%s", first_error(said).c_str());
    std::string made = read_file(output);
    *binary = malloc(made.size());
    if (!*binary || made.empty()) return fail(TBS_COMPILE, "the compiler's output cannot be read");
    memcpy(*binary, made.data(), made.size());
    *size = made.size();
    return TBS_OK;
}

tbs_status tbs_load(const void *binary, size_t size, tbs_module **module) {
    *module = nullptr;
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    if (tbs_trip("load")) return fail(TBS_NO_MEMORY, "a module could not be loaded (on demand)");
    /* A name of its own: the loader would answer a known one with the library it has. */
    Folder folder;
    std::string path = folder.file("kernel.so");
    if (folder.path.empty() || !write_file(path, (const char *)binary, size))
        return fail(TBS_NO_MEMORY, "no temporary file can be written (%s); set TMPDIR",
                    strerror(errno));
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) return fail(TBS_INVALID, "this is no module: %s", dlerror());
    auto bind = (void (*)(tbs_ids *, void **, size_t *))dlsym(library, "tbs_bind");
    if (!bind) {
        dlclose(library);
        return fail(TBS_INVALID, "this is no module: it was compiled without kernel.h");
    }
    tbs_module *made = new tbs_module{library, nullptr, 0};
    bind(&ids, &made->shared, &made->shared_bytes);
    *module = made;
    return TBS_OK;
}

void *tbs_symbol(tbs_module *module, const char *name) {
    TBS_REFUSE_FORKED(nullptr);
    Lock lock;
    void *found = dlsym(module->library, name);
    if (!found) fail(TBS_INVALID, "the module has no '%s'", name);
    return found;
}

void tbs_unload(tbs_module *module) {
    if (!module || tbs_forked()) return;
    Lock lock;
    drain_everything();
    dlclose(module->library);
    delete module;
}

}  // extern "C"
