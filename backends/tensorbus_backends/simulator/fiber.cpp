#include "fiber.h"

#ifdef __APPLE__
#define SYMBOL "_tbs_switch_stacks"
#else
#define SYMBOL "tbs_switch_stacks"
#endif

#ifdef TBS_FIBER_ASSEMBLY

extern "C" __attribute__((visibility("hidden"))) void tbs_switch_stacks(void **from, void *to);

#if defined(__x86_64__)
/* The floating-point control words are the same for all fibers of a launch. */
asm(".text\n.p2align 4\n.globl " SYMBOL "\n" SYMBOL ":\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\n"
    "movq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\n"
    "ret\n");
namespace { const size_t SAVED = 6, RETURN = 6, FRAME = 8; }   /* in words */
#else
asm(".text\n.p2align 4\n.globl " SYMBOL "\n" SYMBOL ":\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
    "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\n"
    "stp d14, d15, [sp, #144]\n"
    "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
    "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\n"
    "ldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\nret\n");
namespace { const size_t SAVED = 20, RETURN = 11, FRAME = 20; }
#endif

namespace tbs {

void switch_to(Context *from, Context *to) { tbs_switch_stacks(&from->stack, to->stack); }

void prepare(Context *context, char *, char *top, void (*entry)()) {
    void **frame = (void **)(uintptr_t(top) & ~uintptr_t(15)) - FRAME;
    for (size_t k = 0; k < (SAVED > FRAME ? SAVED : FRAME); ++k) frame[k] = nullptr;
    frame[RETURN] = (void *)entry;      /* x86-64: word 7 is the null return address of entry */
    context->stack = frame;
}

}  // namespace tbs

#else

namespace tbs {

void switch_to(Context *from, Context *to) { swapcontext(&from->context, &to->context); }

void prepare(Context *context, char *bottom, char *top, void (*entry)()) {
    getcontext(&context->context);
    context->context.uc_stack.ss_sp = bottom;
    context->context.uc_stack.ss_size = size_t(top - bottom);
    context->context.uc_link = nullptr;
    makecontext(&context->context, entry, 0);
}

}  // namespace tbs

#endif
