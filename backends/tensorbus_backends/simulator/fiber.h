/* Switching stacks: what a call must preserve, and nothing else (5-10 ns; ucontext takes 200). */
#ifndef TENSORBUS_FIBER_H
#define TENSORBUS_FIBER_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) || defined(__aarch64__)
#define TBS_FIBER_ASSEMBLY 1
#else
#include <ucontext.h>
#endif

#pragma GCC visibility push(hidden)
namespace tbs {

#ifdef TBS_FIBER_ASSEMBLY
struct Context {
    void *stack = nullptr;      /* top of what was saved */
};
#else
struct Context {
    ucontext_t context;
};
#endif

/* Save this context in `from` and go on in `to`. */
void switch_to(Context *from, Context *to);
/* Make `context` call `entry`, which never returns, on the stack that ends at `top`. */
void prepare(Context *context, char *bottom, char *top, void (*entry)());

}  // namespace tbs
#pragma GCC visibility pop
#endif
