/* Prepared launches as built-in functions of Python: the part of a launch that cffi makes slow is
 * the conversion of each argument.  Only names of CPython's stable ABI (3.11) are used, declared
 * here, so that no Python headers are needed; where this file cannot be built or loaded, cffi does
 * the same. */

#include <stddef.h>
#include <stdint.h>

typedef struct object object;
typedef object *(*fast_function)(object *self, object *const *arguments, ptrdiff_t count);
typedef struct {
    const char *name;
    fast_function function;
    int flags;
    const char *doc;
} method; /* PyMethodDef */
enum { METH_FASTCALL = 0x80 };

extern object *PyObject_GetAttr(object *, object *);
extern void *PyLong_AsVoidPtr(object *);
extern char *PyByteArray_AsString(object *);
extern object *PyCFunction_NewEx(method *, object *self, object *module);
extern object *PyErr_Occurred(void);
extern void PyErr_SetString(object *, const char *);
extern void *PyEval_SaveThread(void);
extern void PyEval_RestoreThread(void *);
extern void Py_IncRef(object *);
extern void Py_DecRef(object *);
extern object *PyExc_TypeError;

#define API __attribute__((visibility("default")))
#define MOST 16

/* Filled by tb_fast_setup. */
static void (*run_job)(void *job, void *const *buffers);
static object *none, *address_name;

/* What the bytearray behind `self` holds; from `fn` on it is a tb_job of runtime.c. */
typedef struct {
    int64_t buffers;
    uintptr_t fn;
    int64_t groups;
    float cost;
} prepared;

/* Longer jobs let Python's other threads run; shorter ones are over before these could. */
#define LONG_NS 10000.0f

static object *launch(object *self, object *const *arguments, ptrdiff_t count) {
    prepared *p = (prepared *)PyByteArray_AsString(self);
    void *addresses[MOST];
    if (count != p->buffers) {
        PyErr_SetString(PyExc_TypeError, "launch takes one argument for each buffer of the kernel");
        return NULL;
    }
    for (ptrdiff_t k = 0; k < count; ++k) {
        object *number = PyObject_GetAttr(arguments[k], address_name);
        if (!number) return NULL;
        addresses[k] = PyLong_AsVoidPtr(number);
        Py_DecRef(number);
        if (!addresses[k] && PyErr_Occurred()) return NULL;
    }
    if (p->groups == 1 && p->cost > 0.0f && p->cost < LONG_NS) {
        run_job(&p->fn, addresses);
    } else {
        void *state = PyEval_SaveThread();
        run_job(&p->fn, addresses);
        PyEval_RestoreThread(state);
    }
    Py_IncRef(none);
    return none;
}

static method launch_method = {"launch", launch, METH_FASTCALL,
                               "Launch a prepared kernel on its buffers."};

API void tb_fast_setup(void *run, object *none_object, object *name) {
    run_job = (void (*)(void *, void *const *))run;
    none = none_object;
    address_name = name;
    Py_IncRef(none);
    Py_IncRef(name);
}

API object *tb_fast_launch(object *job) { return PyCFunction_NewEx(&launch_method, job, NULL); }
