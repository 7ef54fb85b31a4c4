/* The runtime: message dispatch, ownership, Foundation's few classes. */
#include "objc.h"

#include "executor.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <map>
#include <set>

namespace {

const unsigned LIVE = 0x4f424a43, DEAD = 0xdeadbeef;
const size_t KEPT = 65536;

struct State {
    std::set<std::string> names;
    std::map<std::string, sim::Class *> classes;
    std::map<std::string, long> live;           /* objects by class */
    std::deque<void *> dead;
};

/* Never destroyed: messages are sent from exit handlers too. */
State &state() {
    static State *const the = new State;
    return *the;
}

struct Lock {
    Lock() { tbs_lock(); }
    ~Lock() { tbs_unlock(); }
};

sim::Class *class_class = nullptr;
thread_local std::vector<sim::Object *> pools;  /* null marks where a pool begins */

const char *name_of(const sim::Object *object) {
    return object->isa ? object->isa->name : "Class";
}

void check(const sim::Object *object, SEL selector) {
    if (object->magic == LIVE) return;
    if (object->magic == DEAD)
        sim::assertion("message '%s' to an object that was released too often", selector);
    sim::assertion("message '%s' to %p, which is no object", selector, (const void *)object);
}

IMP find(sim::Object *object, SEL selector) {
    sim::Class *as_class = object->isa == class_class ? static_cast<sim::Class *>(object) : nullptr;
    const auto &methods = as_class ? as_class->class_methods : object->isa->methods;
    auto found = methods.find(selector);
    return found == methods.end() ? nullptr : found->second;
}

/* -- NSObject's methods ------------------------------------------------------------------- */

sim::Object *object_retain(sim::Object *self, SEL) {
    sim::retain(self);
    return self;
}
void object_release(sim::Object *self, SEL) { sim::release(self); }
sim::Object *object_autorelease(sim::Object *self, SEL) { return sim::autorelease(self); }
signed char object_responds(sim::Object *self, SEL, SEL asked) { return sim::responds(self, asked); }
signed char class_responds(sim::Class *self, SEL, SEL asked) {
    return self->methods.count(asked) != 0;
}

void setup() {
    static bool done = false;
    if (done) return;
    done = true;
    class_class = new sim::Class("Class");
    class_class->isa = class_class;
    sim::setup_foundation();
    sim::setup_metal();
    sim::setup_mps();
    state().live.clear();       /* classes are no objects to count */
}

}  // namespace

namespace sim {

void assertion(const char *format, ...) {
    fputs("simulated Metal: ", stderr);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    fflush(stderr);
    abort();
}

Object::Object(Class *cls) : isa(cls), magic(LIVE) {
    Lock lock;
    if (cls) ++state().live[cls->name];
}

Object::~Object() {
    Lock lock;
    --state().live[isa->name];
}

void Object::operator delete(void *memory) {
    Lock lock;
    reinterpret_cast<Object *>(memory)->magic = DEAD;
    std::deque<void *> &dead = state().dead;
    dead.push_back(memory);
    if (dead.size() > KEPT) {
        ::operator delete(dead.front());
        dead.pop_front();
    }
}

Class::Class(const char *name) : Object(class_class), name(name) {
    state().classes[name] = this;
    method("retain", imp(object_retain));
    method("release", imp(object_release));
    method("autorelease", imp(object_autorelease));
    method("respondsToSelector:", imp(object_responds));
    class_method("retain", imp(object_retain));
    class_method("release", imp(object_release));
    class_method("respondsToSelector:", imp(object_responds));
    class_method("instancesRespondToSelector:", imp(class_responds));
}

Class &Class::method(const char *selector, IMP body) {
    methods[intern(selector)] = body;
    return *this;
}

Class &Class::class_method(const char *selector, IMP body) {
    class_methods[intern(selector)] = body;
    return *this;
}

SEL intern(const char *name) {
    Lock lock;
    return state().names.insert(name).first->c_str();
}

void retain(Object *object) {
    check(object, "retain");
    ++object->references;
}

void release(Object *object) {
    check(object, "release");
    if (object->isa == class_class) return;
    if (--object->references == 0) delete object;
}

Object *autorelease(Object *object) {
    if (object) pools.push_back(object);
    return object;
}

bool responds(Object *object, SEL selector) {
    check(object, "respondsToSelector:");
    return find(object, selector) != nullptr;
}

}  // namespace sim

/* -- objc_msgSend ----------------------------------------------------------------------------
   Every argument register is saved, the method looked up, and everything put back before the jump,
   so that a method of any type finds its arguments, those on the stack included. */

extern "C" __attribute__((visibility("hidden"), used))
IMP sim_lookup(sim::Object *self, SEL selector) {
    check(self, selector);
    IMP found = find(self, selector);
    if (!found) {
        bool cls = self->isa == class_class;
        const char *name = cls ? static_cast<sim::Class *>(self)->name : name_of(self);
        sim::assertion("%c[%s %s]: unrecognized selector", cls ? '+' : '-', name, selector);
    }
    return found;
}

#ifdef __APPLE__
#define NAME(x) "_" x
#define HEAD ".globl _objc_msgSend\n"
#else
#define NAME(x) x
#define HEAD ".globl objc_msgSend\n.type objc_msgSend, %function\n"
#endif

#if defined(__x86_64__)
__asm__(".text\n.p2align 4\n" HEAD NAME("objc_msgSend") ":\n"
        "  test %rdi, %rdi\n"
        "  jz 1f\n"
        "  push %rbp\n"
        "  mov %rsp, %rbp\n"
        "  sub $192, %rsp\n"
        "  mov %rdi, (%rsp)\n"
        "  mov %rsi, 8(%rsp)\n"
        "  mov %rdx, 16(%rsp)\n"
        "  mov %rcx, 24(%rsp)\n"
        "  mov %r8, 32(%rsp)\n"
        "  mov %r9, 40(%rsp)\n"
        "  mov %rax, 48(%rsp)\n"
        "  movups %xmm0, 64(%rsp)\n"
        "  movups %xmm1, 80(%rsp)\n"
        "  movups %xmm2, 96(%rsp)\n"
        "  movups %xmm3, 112(%rsp)\n"
        "  movups %xmm4, 128(%rsp)\n"
        "  movups %xmm5, 144(%rsp)\n"
        "  movups %xmm6, 160(%rsp)\n"
        "  movups %xmm7, 176(%rsp)\n"
        "  call " NAME("sim_lookup") "\n"
        "  mov %rax, %r11\n"
        "  mov (%rsp), %rdi\n"
        "  mov 8(%rsp), %rsi\n"
        "  mov 16(%rsp), %rdx\n"
        "  mov 24(%rsp), %rcx\n"
        "  mov 32(%rsp), %r8\n"
        "  mov 40(%rsp), %r9\n"
        "  mov 48(%rsp), %rax\n"
        "  movups 64(%rsp), %xmm0\n"
        "  movups 80(%rsp), %xmm1\n"
        "  movups 96(%rsp), %xmm2\n"
        "  movups 112(%rsp), %xmm3\n"
        "  movups 128(%rsp), %xmm4\n"
        "  movups 144(%rsp), %xmm5\n"
        "  movups 160(%rsp), %xmm6\n"
        "  movups 176(%rsp), %xmm7\n"
        "  leave\n"
        "  jmp *%r11\n"
        "1:\n"
        "  xor %eax, %eax\n"
        "  xor %edx, %edx\n"
        "  xorps %xmm0, %xmm0\n"
        "  xorps %xmm1, %xmm1\n"
        "  ret\n");
#elif defined(__aarch64__)
__asm__(".text\n.p2align 4\n" HEAD NAME("objc_msgSend") ":\n"
        "  cbz x0, 1f\n"
        "  stp x29, x30, [sp, #-224]!\n"
        "  mov x29, sp\n"
        "  stp x0, x1, [sp, #16]\n"
        "  stp x2, x3, [sp, #32]\n"
        "  stp x4, x5, [sp, #48]\n"
        "  stp x6, x7, [sp, #64]\n"
        "  str x8, [sp, #80]\n"
        "  stp q0, q1, [sp, #96]\n"
        "  stp q2, q3, [sp, #128]\n"
        "  stp q4, q5, [sp, #160]\n"
        "  stp q6, q7, [sp, #192]\n"
        "  bl " NAME("sim_lookup") "\n"
        "  mov x16, x0\n"
        "  ldp x0, x1, [sp, #16]\n"
        "  ldp x2, x3, [sp, #32]\n"
        "  ldp x4, x5, [sp, #48]\n"
        "  ldp x6, x7, [sp, #64]\n"
        "  ldr x8, [sp, #80]\n"
        "  ldp q0, q1, [sp, #96]\n"
        "  ldp q2, q3, [sp, #128]\n"
        "  ldp q4, q5, [sp, #160]\n"
        "  ldp q6, q7, [sp, #192]\n"
        "  ldp x29, x30, [sp], #224\n"
        "  br x16\n"
        "1:\n"
        "  mov x1, #0\n"
        "  movi v0.2d, #0\n"
        "  movi v1.2d, #0\n"
        "  ret\n");
#else
#error "the simulated Objective-C runtime knows x86-64 and aarch64"
#endif

EXPORT sim::Object *objc_getClass(const char *name) {
    Lock lock;
    setup();
    auto found = state().classes.find(name);
    return found == state().classes.end() ? nullptr : found->second;
}

EXPORT SEL sel_registerName(const char *name) { return sim::intern(name); }

EXPORT void *objc_autoreleasePoolPush(void) {
    pools.push_back(nullptr);
    return (void *)(uintptr_t)pools.size();
}

EXPORT void objc_autoreleasePoolPop(void *pool) {
    size_t mark = (size_t)(uintptr_t)pool;
    if (mark == 0 || mark > pools.size() || pools[mark - 1])
        sim::assertion("an autorelease pool was popped twice, or on another thread");
    while (pools.size() >= mark) {
        sim::Object *object = pools.back();
        pools.pop_back();
        if (object) sim::release(object);
    }
}

/* For tests: live objects by class, "MTLBuffer 3\n...", and those of one class or (null) of all. */
EXPORT const char *tbs_metal_census(void) {
    Lock lock;
    static std::string *const text = new std::string;
    text->clear();
    for (const auto &item : state().live)
        if (item.second) *text += item.first + " " + std::to_string(item.second) + "\n";
    return text->c_str();
}

EXPORT long tbs_metal_live(const char *name) {
    Lock lock;
    long sum = 0;
    for (const auto &item : state().live)
        if (!name || item.first == name) sum += item.second;
    return sum;
}

/* -- Foundation --------------------------------------------------------------------------- */

namespace sim {

namespace {

Class *string_class, *error_class, *array_class;

Object *string_make(Class *, SEL, const char *text) { return autorelease(new String(text)); }
const char *string_utf8(String *self, SEL) { return self->text.c_str(); }
unsigned long string_length(String *self, SEL) { return self->text.size(); }
long error_code(Error *self, SEL) { return self->code; }
Object *error_words(Error *self, SEL) { return self->words.get(); }
unsigned long array_count(Array *self, SEL) { return self->items.size(); }
Object *array_at(Array *self, SEL, unsigned long index) {
    if (index >= self->items.size())
        assertion("index %lu is beyond an array of %zu", index, self->items.size());
    return self->items[index].get();
}

}  // namespace

String::String(const std::string &text) : Object(string_class), text(text) {}
Error::Error(long code, const std::string &words) : Object(error_class), code(code) {
    String *made = new String(words);
    this->words = made;
    release(made);
}
Array::Array() : Object(array_class) {}

void setup_foundation() {
    string_class = new Class("NSString");
    string_class->class_method("stringWithUTF8String:", imp(string_make))
        .method("UTF8String", imp(string_utf8))
        .method("length", imp(string_length));
    error_class = new Class("NSError");
    error_class->method("code", imp(error_code)).method("localizedDescription", imp(error_words));
    array_class = new Class("NSArray");
    array_class->method("count", imp(array_count)).method("objectAtIndex:", imp(array_at));
}

}  // namespace sim
