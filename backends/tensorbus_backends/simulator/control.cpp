/* Lock, messages, settings, failures on demand, the state of devices. */
#include "internal.h"

#include <ctype.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <map>
#include <set>

namespace {

struct Fault {
    long calls = 0;     /* since the library was loaded */
    long left = 0;      /* fails when this reaches zero from one */
};

const char *const KINDS[] = {"alloc", "compile", "load", "launch", "kernel",
                             "illegal", "lost", "copy", "slow"};

struct State {
    std::map<std::string, Fault> faults;
    std::map<int, std::pair<tbs_status, std::string>> failed;
    std::set<std::string> interned;
};

/* Never destroyed: drivers are called from exit handlers too. */
State &state() {
    static State *const the = new State;
    return *the;
}

volatile bool in_child = false;
thread_local char message[1024] = "";

bool known(const std::string &kind) {
    for (const char *name : KINDS)
        if (kind == name) return true;
    return false;
}

void arm_from_environment() {
    const char *text = getenv("TENSORBUS_SIMULATE_FAULTS");
    std::string rest = text ? text : "";
    while (!rest.empty()) {
        size_t end = rest.find(',');
        std::string item = rest.substr(0, end);
        rest = end == std::string::npos ? "" : rest.substr(end + 1);
        if (item.empty()) continue;
        size_t colon = item.find(':');
        std::string kind = item.substr(0, colon);
        long nth = colon == std::string::npos ? 0 : atol(item.c_str() + colon + 1);
        if (known(kind) && nth > 0)
            state().faults[kind].left = nth;
        else
            fprintf(stderr, "TENSORBUS_SIMULATE_FAULTS: '%s' is not understood; write kind:n with "
                    "alloc, compile, load, launch, kernel, illegal, lost, copy or slow\n",
                    item.c_str());
    }
}

__attribute__((constructor)) void start() {
    pthread_atfork(nullptr, nullptr, [] { in_child = true; });
    arm_from_environment();
}

std::string entry_of(const std::string &list, int device) {
    size_t from = 0;
    for (; device > 0; --device) {
        size_t slash = list.find('/', from);
        if (slash == std::string::npos) break;
        from = slash + 1;
    }
    return list.substr(from, list.find('/', from) - from);
}

/* The value of `key`; false if the variable does not have it. */
bool setting(const char *family, const char *key, int device, std::string *value) {
    std::string name = "TENSORBUS_SIMULATE_";
    for (const char *c = family; *c; ++c) name += char(toupper((unsigned char)*c));
    const char *text = getenv(name.c_str());
    std::string rest = text ? text : "", head = std::string(key) + "=";
    while (!rest.empty()) {
        size_t end = rest.find(',');
        std::string item = rest.substr(0, end);
        rest = end == std::string::npos ? "" : rest.substr(end + 1);
        if (item.compare(0, head.size(), head) == 0) {
            *value = entry_of(item.substr(head.size()), device);
            return true;
        }
    }
    return false;
}

}  // namespace

namespace tbs {

std::recursive_mutex &mutex() {
    static std::recursive_mutex *const the = new std::recursive_mutex;
    return *the;
}

tbs_status fail(tbs_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return status;
}

tbs_status forked() {
    return fail(TBS_LOST, "this process was forked after the driver had been loaded, which it does "
                "not survive: start workers with the 'spawn' or 'forkserver' method");
}

uint64_t seed() {
    const char *text = getenv("TENSORBUS_SIMULATE_SEED");
    return text ? strtoull(text, nullptr, 0) : 0;
}

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

}  // namespace tbs

using namespace tbs;

extern "C" {

/* In a child the lock may be held by a thread that does not exist there. */
void tbs_lock(void) { if (!in_child) mutex().lock(); }
void tbs_unlock(void) { if (!in_child) mutex().unlock(); }
int tbs_forked(void) { return in_child; }
const char *tbs_message(void) { return message; }

const char *tbs_option(const char *family, const char *key, int device, const char *otherwise) {
    std::string value;
    if (in_child || !setting(family, key, device, &value)) return otherwise;
    Lock lock;
    return state().interned.insert(value).first->c_str();
}

int64_t tbs_option_int(const char *family, const char *key, int device, int64_t otherwise) {
    std::string value;
    if (!setting(family, key, device, &value)) return otherwise;
    char *end = nullptr;
    long long number = strtoll(value.c_str(), &end, 0);
    if (end == value.c_str()) return otherwise;
    if (strcmp(end, "KiB") == 0) return number << 10;
    if (strcmp(end, "MiB") == 0) return number << 20;
    if (strcmp(end, "GiB") == 0) return number << 30;
    return number;
}

void tbs_arm(const char *kind, long nth) {
    if (in_child) return;
    Lock lock;
    if (kind) {
        state().faults[kind].left = nth;
        return;
    }
    for (auto &item : state().faults) item.second.left = 0;
    state().failed.clear();
}

int tbs_trip(const char *kind) {
    if (in_child) return 0;
    Lock lock;
    Fault &fault = state().faults[kind];
    ++fault.calls;
    return fault.left > 0 && --fault.left == 0;
}

long tbs_count(const char *kind) {
    if (in_child) return 0;
    Lock lock;
    return state().faults[kind].calls;
}

tbs_status tbs_submit(int device, const char *kind) {
    TBS_REFUSE_FORKED(TBS_LOST);
    long slow;
    {
        Lock lock;
        if (tbs_trip("lost")) {
            fail(TBS_LOST, "device %d was lost at a %s (failure on demand)", device, kind);
            tbs_device_fail(device, TBS_LOST);
        }
        tbs_status status = tbs_device_status(device);
        if (status) return status;
        if (tbs_trip(kind)) return fail(TBS_LAUNCH, "a %s was refused (failure on demand)", kind);
        slow = state().faults["slow"].left;
    }
    if (slow > 0) {
        timespec pause = {slow / 1000, slow % 1000 * 1000000};
        nanosleep(&pause, nullptr);
    }
    return TBS_OK;
}

tbs_status tbs_device_status(int device) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    auto found = state().failed.find(device);
    if (found == state().failed.end()) return TBS_OK;
    return fail(found->second.first, "%s", found->second.second.c_str());
}

void tbs_device_fail(int device, tbs_status status) {
    if (in_child) return;
    Lock lock;
    state().failed.emplace(device, std::make_pair(status, std::string(message)));
}

void tbs_device_reset(int device) {
    if (in_child) return;
    Lock lock;
    drop_waiting(device);
    state().failed.erase(device);
}

}  // extern "C"
