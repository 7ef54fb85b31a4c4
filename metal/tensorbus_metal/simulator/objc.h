/* A small Objective-C runtime: classes, messages, reference counts, autorelease pools.

   A method is a plain C function (self, selector, arguments...); objc_msgSend (objc.cpp) looks it up
   and jumps to it.  Mistakes that corrupt memory on a real system end the process here with a
   sentence: a message to an object that is gone, a method that a class does not have. */
#ifndef TENSORBUS_METAL_OBJC_H
#define TENSORBUS_METAL_OBJC_H

#include <stddef.h>

#include <atomic>
#include <string>
#include <unordered_map>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

typedef const char *SEL;        /* interned: equal names are equal pointers */
typedef void (*IMP)(void);

namespace sim {

/* End the process as Metal's validation or the Objective-C runtime would. */
[[noreturn]] void assertion(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct Class;

struct Object {
    Class *isa;
    std::atomic<long> references{1};
    unsigned magic;             /* tells live objects from dead ones and from junk */
    explicit Object(Class *cls);
    virtual ~Object();
    Object(const Object &) = delete;
    Object &operator=(const Object &) = delete;
    /* The memory of the dead is kept for a while, so that late messages are noticed. */
    static void *operator new(size_t size) { return ::operator new(size); }
    static void operator delete(void *memory);
};

struct Class : Object {
    const char *name;
    std::unordered_map<SEL, IMP> methods, class_methods;
    Class(const char *name);
    Class &method(const char *selector, IMP body);
    Class &class_method(const char *selector, IMP body);
};

SEL intern(const char *name);
void retain(Object *object);
void release(Object *object);
Object *autorelease(Object *object);        /* returns it */
bool responds(Object *object, SEL selector);

template <class F> IMP imp(F *function) { return reinterpret_cast<IMP>(function); }

/* A counted reference held by C++ code. */
template <class T> class Ref {
public:
    Ref(T *object = nullptr) : object_(object) { if (object_) retain(object_); }
    Ref(const Ref &other) : Ref(other.object_) {}
    ~Ref() { if (object_) release(object_); }
    Ref &operator=(const Ref &other) {
        if (other.object_) retain(other.object_);
        if (object_) release(object_);
        object_ = other.object_;
        return *this;
    }
    T *operator->() const { return object_; }
    T *get() const { return object_; }
    explicit operator bool() const { return object_ != nullptr; }
private:
    T *object_;
};

/* -- Foundation --------------------------------------------------------------------------- */

struct String : Object {
    std::string text;
    explicit String(const std::string &text);
};

struct Error : Object {
    long code;
    Ref<String> words;
    Error(long code, const std::string &words);
};

struct Array : Object {
    std::vector<Ref<Object>> items;
    Array();
};

void setup_foundation();
void setup_metal();
void setup_mps();

}  // namespace sim

EXPORT sim::Object *objc_getClass(const char *name);
#endif
