// A loop around a Verilated unit with one stream in and one out: clock, source and sink, as one C interface.
#include <cstdint>
#include <cstring>

#include "Vunit.h"
#include "trace.h"
#include "verilated.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif

namespace {

struct Port {
    void* data;
    size_t bytes;  // that the port's width needs
    uint8_t top;   // mask of the last of them
};

enum Fault { kNone, kNothingMoved, kValidFell, kPayloadChanged };

constexpr size_t kRoom = 1024;  // bytes of a payload, at most
constexpr int kDrain = 10;      // cycles in which results come that are too many
constexpr int kPatience = 2000; // cycles without any movement before the loop gives up

struct Unit {
    VerilatedContext context;
    Vunit* top;
    Trace trace;
    uint64_t random = 1;
    uint32_t stall[2] = {};  // probabilities in 1 / 65536: source, sink
    uint64_t cycles = 0;
    // The source.
    const uint8_t* next = nullptr;
    const uint8_t* end = nullptr;
    bool offered = false;
    // The sink.
    uint8_t* out = nullptr;
    size_t taken = 0, room = 0;
    bool open = false, taking = true, waiting = false;
    uint8_t held[kRoom];
    Fault fault = kNone;

    uint64_t draw() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return random;
    }
    bool chance(uint32_t threshold) { return threshold && (draw() >> 20 & 0xFFFF) < threshold; }
};

Port port(Unit* u, int index) {
    Vunit* top = u->top;
    int i = 0;
#define PORT(name, width) \
    if (i++ == index) return {&top->name, (width + 7) / 8, static_cast<uint8_t>(0xFF >> (7 - (width - 1) % 8))};
#include "ports.h"
#undef PORT
    return {nullptr, 0, 0};
}

#define PORT(name, width) kPort_##name,
enum {
#include "ports.h"
};
#undef PORT

// What is not valid may be anything, and change in every cycle.
void noise(Unit* u, Port payload) {
    uint8_t* data = static_cast<uint8_t*>(payload.data);
    for (size_t i = 0; i < payload.bytes; i += 8) {
        uint64_t word = u->draw();
        memcpy(data + i, &word, payload.bytes - i < 8 ? payload.bytes - i : 8);
    }
    data[payload.bytes - 1] &= payload.top;
}

void half(Unit* u, int level) {
    u->top->clk = level;
    u->top->eval();
    u->trace.dump();
}

// One clock cycle; whether a stream moved.
bool tick(Unit* u) {
    Vunit* top = u->top;
    Port in = port(u, kPort_i_payload), out = port(u, kPort_o_payload);
    // Valid never falls before ready was seen, and never waits for it.
    u->offered = u->offered || (u->next < u->end && !u->chance(u->stall[0]));
    top->i_valid = u->offered;
    if (u->offered)
        memcpy(in.data, u->next, in.bytes);
    else
        noise(u, in);
    if (u->stall[1] && !u->open) {
        // Every other 16 results it waits for valid first, which a unit that waits for ready would never answer.
        bool reluctant = u->taken / 16 % 2 == 1 && !u->waiting;
        u->taking = !reluctant && !u->chance(u->stall[1]);
    }
    top->o_ready = u->taking;
    half(u, 0);
    bool moved = false;
    if (u->offered && top->i_ready) {
        u->next += in.bytes;
        u->offered = false;
        moved = true;
    }
    if (top->o_valid) {
        if (u->waiting && memcmp(u->held, out.data, out.bytes)) u->fault = kPayloadChanged;
        memcpy(u->held, out.data, out.bytes);
        u->waiting = !u->taking;
        if (u->taking) {
            if (u->taken < u->room) memcpy(u->out + u->taken * out.bytes, out.data, out.bytes);
            u->taken++;
            moved = true;
        }
    } else {
        if (u->waiting) u->fault = kValidFell;
        u->waiting = false;
    }
    half(u, 1);
    u->cycles++;
    return moved;
}

}  // namespace

extern "C" {

// Writes what was covered so far, where the model was built for it.
void fgmp_coverage(Unit* u, const char* path) {
#if VM_COVERAGE
    u->context.coveragep()->write(path);
#endif
}

Unit* fgmp_create(uint64_t seed, int random_state, uint32_t fault) {
    Unit* u = new Unit;
    u->context.randReset(random_state ? 2 : 0);
    u->context.randSeed(static_cast<int>(seed & 0x3FFFFFFF) + 1);
    u->top = new Vunit(&u->context);
#ifdef FGMP_FAULTS
    u->top->fault_select = fault;
#else
    (void)fault;
#endif
    return u;
}

// From now on what happens goes into a file, while `reserve` bytes are free.
void fgmp_trace(Unit* u, const char* path, uint64_t reserve) { u->trace.open(u->top, u->context, path, reserve); }

// Returns whether all of it is there.
int fgmp_trace_end(Unit* u) { return u->trace.close(); }

void fgmp_destroy(Unit* u) {
    u->trace.close();
    u->top->final();
    delete u->top;
    delete u;
}

// A campaign begins: one cycle of reset under the worst that a neighbour can do, which offers nonsense, takes nothing.
void fgmp_begin(Unit* u, uint64_t seed, double source, double sink) {
    Vunit* top = u->top;
    u->random = seed * 0x9E3779B97F4A7C15ull | 1;
    u->stall[0] = static_cast<uint32_t>(source * 65536);
    u->stall[1] = static_cast<uint32_t>(sink * 65536);
    u->cycles = u->taken = 0;
    u->offered = u->waiting = u->open = false;
    u->taking = true;
    u->fault = kNone;
    top->clear_flags = 0;
    noise(u, port(u, kPort_i_payload));
    top->i_valid = 1;
    top->o_ready = 0;
    top->rst = 1;
    for (int level = 0; level < 2; level++) half(u, level);
    top->rst = 0;
    top->i_valid = 0;
}

void fgmp_set(Unit* u, int index, uint32_t value) {
    Port p = port(u, index);
    memcpy(p.data, &value, p.bytes < 4 ? p.bytes : 4);
    static_cast<uint8_t*>(p.data)[p.bytes - 1] &= p.top;
}

uint32_t fgmp_get(Unit* u, int index) {
    Port p = port(u, index);
    uint32_t value = 0;
    memcpy(&value, p.data, p.bytes < 4 ? p.bytes : 4);
    return value;
}

// Sends `count` payloads and waits for as many results as expected, then listens on for more. `results` has room for
// them all and more; returns how many came, or the negated fault of the handshake.
int64_t fgmp_group(Unit* u, const uint8_t* inputs, size_t count, uint8_t* results, size_t expected, size_t room) {
    u->next = inputs;
    u->end = inputs + count * port(u, kPort_i_payload).bytes;
    u->out = results;
    u->room = room;
    u->taken = 0;
    int quiet = 0;
    // A unit that takes nothing and gives results without end moves; there are too many of them then.
    while ((u->next < u->end || u->taken < expected) && u->taken <= room) {
        quiet = tick(u) ? 0 : quiet + 1;
        if (quiet > kPatience) u->fault = kNothingMoved;
        if (u->fault) return -u->fault;
    }
    u->open = u->taking = true;
    for (int i = 0; i < kDrain; i++) tick(u);
    u->open = false;
    u->top->clk = 0;
    u->top->eval();
    return u->fault ? -u->fault : static_cast<int64_t>(u->taken);
}

void fgmp_clear_flags(Unit* u) {
    u->top->clear_flags = 1;
    tick(u);
    u->top->clear_flags = 0;
}

uint64_t fgmp_cycles(const Unit* u) { return u->cycles; }
}
