#include "machine.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

namespace {

const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}, COUNT = 5;
const size_t STACK = 64 * 1024;

struct sigaction before[COUNT];
stack_t stack_before;
pthread_t runner;
tbs::Trap *trap;
tbs::Context *leave;
tbs::Context abandoned;

/* As if ours had not been there. */
void pass_on(int number, siginfo_t *info, void *context) {
    for (int k = 0; k < COUNT; ++k) {
        if (SIGNALS[k] != number) continue;
        if (before[k].sa_flags & SA_SIGINFO) return before[k].sa_sigaction(number, info, context);
        if (before[k].sa_handler != SIG_DFL && before[k].sa_handler != SIG_IGN)
            return before[k].sa_handler(number);
        sigaction(number, &before[k], nullptr);
        raise(number);
    }
}

void handle(int number, siginfo_t *info, void *context) {
    if (!leave || !pthread_equal(pthread_self(), runner)) return pass_on(number, info, context);
    trap->signal = number;
    trap->address = uint64_t(info->si_addr);
    /* SA_NODEFER: nothing is blocked, so that the handler can be left without sigreturn. */
    tbs::switch_to(&abandoned, leave);
}

#if defined(__x86_64__)
uint64_t get_mode() {
    uint32_t mode;
    asm volatile("stmxcsr %0" : "=m"(mode));
    return mode;
}
void set_mode(uint64_t value) {
    uint32_t mode = uint32_t(value);
    asm volatile("ldmxcsr %0" : : "m"(mode));
}
const uint64_t KEEP = 0x1F80, FLUSH = 0x1F80 | 0x8040;      /* FTZ and DAZ */
#elif defined(__aarch64__)
uint64_t get_mode() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
void set_mode(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
const uint64_t KEEP = 0, FLUSH = uint64_t(1) << 24;
#else
uint64_t get_mode() { return 0; }
void set_mode(uint64_t) {}
const uint64_t KEEP = 0, FLUSH = 0;
#endif

}  // namespace

namespace tbs {

Watch::Watch(Trap *where, Context *to) {
    static char *const own = (char *)malloc(STACK);
    trap = where;
    leave = to;
    runner = pthread_self();
    stack_t stack;
    memset(&stack, 0, sizeof stack);
    stack.ss_sp = own;
    stack.ss_size = STACK;
    sigaltstack(&stack, &stack_before);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int k = 0; k < COUNT; ++k) sigaction(SIGNALS[k], &action, &before[k]);
}

Watch::~Watch() {
    for (int k = 0; k < COUNT; ++k) sigaction(SIGNALS[k], &before[k], nullptr);
    sigaltstack(&stack_before, nullptr);
    leave = nullptr;
}

FloatMode::FloatMode(bool flush) : before(get_mode()) { set_mode(flush ? FLUSH : KEEP); }
FloatMode::~FloatMode() { set_mode(before); }

}  // namespace tbs
