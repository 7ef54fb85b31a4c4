/* Memory that faults where a device's would be corrupted in silence. */
#include "internal.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <map>

namespace {

const size_t ALIGN = 256, FILL = size_t(4) << 20, FRONT = 64, KEPT = 256;
const unsigned char DIRTY = 0xA5, CANARY = 0xC3;

struct Block {
    uint64_t address;
    size_t size, rounded;
    char *mapping;
    size_t length;
    int device;
    size_t front() const { return front_limit() < FRONT ? front_limit() : FRONT; }
    size_t front_limit() const { return size_t(address - uint64_t(mapping)) - page(); }
    static size_t page() {
        static const size_t bytes = size_t(sysconf(_SC_PAGESIZE));
        return bytes;
    }
};

struct Memory {
    size_t total = size_t(4) << 30, used = 0;
};

struct State {
    std::map<uint64_t, Block> live;
    std::deque<Block> freed;
    std::map<int, Memory> devices;
};

State &state() {
    static State *const the = new State;
    return *the;
}

bool intact(const unsigned char *from, size_t bytes) {
    static unsigned char expected[ALIGN];
    if (!*expected) memset(expected, CANARY, sizeof expected);
    return memcmp(from, expected, bytes) == 0;
}

tbs_status check(const Block &block) {
    const unsigned char *start = (const unsigned char *)block.address;
    bool front = intact(start - block.front(), block.front());
    bool behind = intact(start + block.size, block.rounded - block.size);
    if (front && behind) return TBS_OK;
    return tbs::fail(TBS_ILLEGAL_ADDRESS, "something wrote %s a block of %zu bytes at 0x%llx",
                     front ? "behind" : "in front of", block.size,
                     (unsigned long long)block.address);
}

/* The live block that starts at or below an address. */
const Block *below(uint64_t address) {
    auto after = state().live.upper_bound(address);
    if (after == state().live.begin()) return nullptr;
    return &(--after)->second;
}

bool map_block(Block *block) {
    const size_t page = Block::page();
    size_t middle = (block->rounded + page - 1) / page * page;
    if (middle == 0) middle = page;
    block->length = middle + 2 * page;
    void *mapping = mmap(nullptr, block->length, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (mapping == MAP_FAILED) return false;
    block->mapping = (char *)mapping;
    if (mprotect(block->mapping + page, middle, PROT_READ | PROT_WRITE)) {
        munmap(mapping, block->length);
        return false;
    }
    char *start = block->mapping + page + middle - block->rounded;
    block->address = uint64_t(start);
    memset(start - block->front(), CANARY, block->front());
    memset(start, DIRTY, block->size < FILL ? block->size : FILL);
    memset(start + block->size, CANARY, block->rounded - block->size);
    return true;
}

/* A fresh mapping in the same place gives the pages back, and nothing else can move in. */
void keep_freed(const Block &block) {
    mmap(block.mapping, block.length, PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_FIXED, -1, 0);
    std::deque<Block> &freed = state().freed;
    freed.push_back(block);
    while (freed.size() > KEPT) {
        munmap(freed.front().mapping, freed.front().length);
        freed.pop_front();
    }
}

}  // namespace

namespace tbs {

tbs_status check_canaries(int device) {
    for (const auto &item : state().live)
        if (item.second.device == device)
            if (tbs_status status = check(item.second)) {
                tbs_device_fail(device, status);
                return status;
            }
    return TBS_OK;
}

std::string describe(uint64_t address) {
    char text[160];
    if (address < 65536) return "a null pointer";
    for (const Block &block : state().freed)
        if (address - uint64_t(block.mapping) < block.length) {
            snprintf(text, sizeof text, "a block of %zu bytes that was freed", block.size);
            return text;
        }
    for (const auto &item : state().live) {
        const Block &block = item.second;
        if (address - uint64_t(block.mapping) >= block.length) continue;
        if (address < block.address)
            snprintf(text, sizeof text, "%zu bytes in front of a block of %zu bytes",
                     size_t(block.address - address), block.size);
        else
            snprintf(text, sizeof text, "%zu bytes behind a block of %zu bytes",
                     size_t(address - block.address) - block.size, block.size);
        return text;
    }
    return "no memory of a device";
}

}  // namespace tbs

using namespace tbs;

extern "C" {

tbs_status tbs_alloc(int device, size_t nbytes, uint64_t *address) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    *address = 0;
    if (tbs_status status = tbs_device_status(device)) return status;
    Memory &memory = state().devices[device];
    if (tbs_trip("alloc"))
        return fail(TBS_NO_MEMORY, "an allocation of %zu bytes failed (on demand)", nbytes);
    size_t rounded = (nbytes + ALIGN - 1) / ALIGN * ALIGN;
    if (rounded < nbytes || rounded > memory.total - memory.used)
        return fail(TBS_NO_MEMORY, "an allocation of %zu bytes failed: %zu of %zu bytes are free",
                    nbytes, memory.total - memory.used, memory.total);
    Block block = {0, nbytes, rounded, nullptr, 0, device};
    if (!map_block(&block))
        return fail(TBS_NO_MEMORY, "the host has no %zu bytes for the simulated device", nbytes);
    memory.used += rounded;
    state().live[block.address] = block;
    *address = block.address;
    return TBS_OK;
}

tbs_status tbs_free(int device, uint64_t address) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    auto found = state().live.find(address);
    if (found == state().live.end() || found->second.device != device)
        return fail(TBS_INVALID, "0x%llx is no block of device %d that could be freed",
                    (unsigned long long)address, device);
    Block block = found->second;
    state().live.erase(found);
    state().devices[device].used -= block.rounded;
    tbs_status status = check(block);
    if (status) tbs_device_fail(device, status);
    keep_freed(block);
    return tbs_device_status(device);
}

tbs_status tbs_memory_info(int device, size_t *free_bytes, size_t *total_bytes) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    const Memory &memory = state().devices[device];
    *free_bytes = memory.total - memory.used;
    *total_bytes = memory.total;
    return tbs_device_status(device);
}

void tbs_set_memory(int device, size_t total_bytes) {
    if (tbs_forked()) return;
    Lock lock;
    Memory &memory = state().devices[device];
    memory.total = total_bytes > memory.used ? total_bytes : memory.used;
}

tbs_status tbs_range(uint64_t address, size_t nbytes, uint64_t *base, size_t *size, int *device) {
    TBS_REFUSE_FORKED(TBS_LOST);
    Lock lock;
    const Block *block = below(address);
    if (!block || address - block->address > block->size
        || nbytes > block->size - size_t(address - block->address))
        return fail(TBS_INVALID, "%zu bytes at 0x%llx are not in one block of device memory",
                    nbytes, (unsigned long long)address);
    if (base) *base = block->address;
    if (size) *size = block->size;
    if (device) *device = block->device;
    return TBS_OK;
}

}  // extern "C"
