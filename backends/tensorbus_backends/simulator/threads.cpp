/* Threads of a group as fibers, on the one thread of the host that launches. */
#include "module.h"
#include "fiber.h"
#include "internal.h"
#include "machine.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

namespace tbs {
tbs_ids ids;
}

using tbs::ids;

namespace {

const uint32_t MOST = 1024;
/* The guard is wide because a large frame is not touched from its end. */
const size_t STACK = 64 * 1024, GUARD = 256 * 1024, DYNAMIC = 256 * 1024;

struct Fiber {
    tbs::Context context;
    uint32_t thread[3];
    char *stack = nullptr;
    bool prepared = false;
};

/* A permutation of [0, n) that costs one addition an element: steps of a stride coprime to n. */
struct Order {
    uint64_t n = 0, at = 0, stride = 1;

    uint64_t next() {
        uint64_t value = at;
        at += stride;
        if (at >= n) at -= n;
        return value;
    }
};

uint64_t gcd(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

struct Random {
    uint64_t state;

    uint64_t next() {       /* splitmix64 */
        uint64_t z = (state += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }

    Order order(uint64_t n) {
        Order order;
        order.n = n;
        if (n < 2) return order;
        order.at = next() % n;
        do order.stride = 1 + next() % (n - 1); while (gcd(order.stride, n) != 1);
        return order;
    }
};

/* One launch at a time, so that all of this is plain static storage: a thread-local variable would
   cost more than the switch. */
void (*body)(void *);
void *arguments;
tbs::Context home;
Fiber fibers[MOST];
Fiber *idle[MOST], *now[MOST], *waiting[MOST], *current;
uint32_t idle_count, waiting_count, finished;
Order fresh, resumed;
uint32_t fresh_left, resumed_left;
Random randomness;
uint64_t launches;
uint32_t made;              /* fibers that have a stack */
tbs::Trap trap;

void run_threads();

Fiber *take_fiber() {
    Fiber *fiber = idle[--idle_count];
    if (!fiber->prepared) {
        /* Without the offset all stacks would fall on the same few lines of the cache. */
        size_t offset = size_t(fiber - fibers) % 16 * 256;
        tbs::prepare(&fiber->context, fiber->stack, fiber->stack + STACK - offset, run_threads);
        fiber->prepared = true;
    }
    return fiber;
}

/* Leave `self`: to the next thread of this phase, or home when all have had their turn. */
inline void go_on(Fiber *self) {
    if (fresh_left) {
        current = take_fiber();
    } else if (resumed_left) {
        --resumed_left;
        current = now[resumed.next()];
        memcpy(ids.thread, current->thread, sizeof ids.thread);
    } else {
        tbs::switch_to(&self->context, &home);
        return;
    }
    tbs::switch_to(&self->context, &current->context);
}

void barrier() {
    if (ids.threads[0] * ids.threads[1] * ids.threads[2] == 1) return;
    Fiber *self = current;
    memcpy(self->thread, ids.thread, sizeof ids.thread);
    waiting[waiting_count++] = self;
    go_on(self);
}

/* A fiber's life: threads, one after the other, for as long as there are new ones. */
void run_threads() {
    for (;;) {
        while (fresh_left) {
            --fresh_left;
            uint32_t k = uint32_t(fresh.next()), x = ids.threads[0], y = ids.threads[1];
            if (k < x) {
                ids.thread[0] = k;
                ids.thread[1] = ids.thread[2] = 0;
            } else {
                ids.thread[0] = k % x;
                ids.thread[1] = k / x % y;
                ids.thread[2] = k / x / y;
            }
            body(arguments);
            ++finished;
        }
        Fiber *self = current;
        idle[idle_count++] = self;
        go_on(self);
    }
}

/* Fibers that a failed kernel left in the middle start anew. */
void forget_fibers() {
    for (uint32_t k = 0; k < made; ++k) {
        fibers[k].prepared = false;
        idle[made - 1 - k] = &fibers[k];
    }
    idle_count = made;
}

bool make_fibers(uint32_t count) {
    if (made >= count) return true;
    for (; made < count; ++made) {
        void *mapping = mmap(nullptr, GUARD + STACK, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
        if (mapping == MAP_FAILED) break;
        fibers[made].stack = (char *)mapping + GUARD;
        mprotect(fibers[made].stack, STACK, PROT_READ | PROT_WRITE);
    }
    forget_fibers();
    return made >= count;
}

bool on_a_stack(uint64_t address) {
    for (const Fiber &fiber : fibers)
        if (fiber.stack && address < uint64_t(fiber.stack)
            && uint64_t(fiber.stack) - address <= GUARD) return true;
    return false;
}

/* Memory whose end, rounded up to 16 bytes, is an inaccessible page. */
char *dynamic_memory(size_t bytes) {
    static char *end = nullptr;
    if (!end) {
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        void *mapping = mmap(nullptr, DYNAMIC + page, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
        if (mapping == MAP_FAILED) return nullptr;
        mprotect(mapping, DYNAMIC, PROT_READ | PROT_WRITE);
        end = (char *)mapping + DYNAMIC;
    }
    return end - (bytes + 15) / 16 * 16;
}

/* One group, phase by phase; false after a trap, or if threads returned while others wait. */
bool run_group(uint32_t count) {
    fresh = randomness.order(count);
    fresh_left = count;
    resumed_left = waiting_count = finished = 0;
    current = take_fiber();
    tbs::switch_to(&home, &current->context);
    while (waiting_count || trap.signal) {
        if (finished || trap.signal) return false;
        resumed_left = waiting_count;
        resumed = randomness.order(resumed_left);
        memcpy(now, waiting, resumed_left * sizeof *now);
        waiting_count = 0;
        --resumed_left;
        current = now[resumed.next()];
        memcpy(ids.thread, current->thread, sizeof ids.thread);
        tbs::switch_to(&home, &current->context);
    }
    return true;
}

tbs_status explain(int device, const tbs::Trap &trap) {
    char where[128];
    snprintf(where, sizeof where, "thread (%u, %u, %u) of group (%u, %u, %u)", ids.thread[0],
             ids.thread[1], ids.thread[2], ids.group[0], ids.group[1], ids.group[2]);
    if (trap.signal == SIGFPE)
        return tbs::fail(TBS_LAUNCH, "an integer was divided by zero in %s", where);
    if (trap.signal == SIGILL || trap.signal == SIGTRAP)
        return tbs::fail(TBS_LAUNCH, "%s came to a trap", where);
    if (on_a_stack(trap.address))
        tbs::fail(TBS_ILLEGAL_ADDRESS, "%s needs more than 64 KiB of stack", where);
    else
        tbs::fail(TBS_ILLEGAL_ADDRESS, "%s touched 0x%llx: %s", where,
                  (unsigned long long)trap.address, tbs::describe(trap.address).c_str());
    tbs_device_fail(device, TBS_ILLEGAL_ADDRESS);
    return TBS_ILLEGAL_ADDRESS;
}

/* The first `stop` of all groups in shuffled order. */
bool run_groups(tbs_module *module, uint64_t stop, uint32_t count, size_t dynamic) {
    Order order = randomness.order(uint64_t(ids.groups[0]) * ids.groups[1] * ids.groups[2]);
    for (; stop; --stop) {
        uint64_t g = order.next();
        ids.group[0] = uint32_t(g % ids.groups[0]);
        ids.group[1] = uint32_t(g / ids.groups[0] % ids.groups[1]);
        ids.group[2] = uint32_t(g / ids.groups[0] / ids.groups[1]);
        if (module->shared_bytes) memset(module->shared, 0xA5, module->shared_bytes);
        if (dynamic) memset(ids.dynamic, 0xA5, dynamic);
        if (!run_group(count)) return false;
    }
    return true;
}

tbs_status failure_on_demand(int device) {
    if (tbs_trip("illegal")) {
        tbs::fail(TBS_ILLEGAL_ADDRESS, "a kernel touched a forbidden address (on demand)");
        tbs_device_fail(device, TBS_ILLEGAL_ADDRESS);
        return TBS_ILLEGAL_ADDRESS;
    }
    if (tbs_trip("kernel")) return tbs::fail(TBS_LAUNCH, "a kernel failed (on demand)");
    return TBS_OK;
}

}  // namespace

using namespace tbs;

extern "C" tbs_status tbs_run(int device, tbs_module *module, void (*kernel)(void *),
                              void *values, const uint32_t groups[3], const uint32_t threads[3],
                              size_t dynamic, int flush) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    if (tbs_status status = tbs_device_status(device)) return status;
    uint64_t count = 1, total = 1;
    for (int k = 0; k < 3; ++k) {
        if (threads[k] > MOST) return fail(TBS_INVALID, "a group of more than %u threads", MOST);
        count *= threads[k];
        total *= groups[k];
    }
    if (count == 0 || count > MOST || total == 0)
        return fail(TBS_INVALID, "a launch of %llu groups of %llu threads; a group has 1 to %u",
                    (unsigned long long)total, (unsigned long long)count, MOST);
    if (dynamic > DYNAMIC)
        return fail(TBS_INVALID, "%zu bytes of shared memory; %zu are possible", dynamic, DYNAMIC);
    ids.dynamic = dynamic_memory(dynamic);
    if (!make_fibers(uint32_t(count)) || !ids.dynamic)
        return fail(TBS_NO_MEMORY, "the host has no memory for the threads' stacks");
    memcpy(ids.groups, groups, sizeof ids.groups);
    memcpy(ids.threads, threads, sizeof ids.threads);
    ids.barrier = barrier;
    body = kernel;
    arguments = values;
    randomness.state = seed() * 0x9E3779B97F4A7C15u + launches++;
    tbs_status demanded = failure_on_demand(device);
    trap = Trap();
    bool right;
    {
        Watch watch(&trap, &home);
        FloatMode mode(flush);
        right = run_groups(module, demanded ? total / 2 : total, uint32_t(count), dynamic);
    }
    if (right) return demanded;
    forget_fibers();
    if (trap.signal) return explain(device, trap);
    return fail(TBS_LAUNCH, "divergent barrier: %u of %u threads of group (%u, %u, %u) returned "
                "while the others waited", finished, uint32_t(count), ids.group[0], ids.group[1],
                ids.group[2]);
}
