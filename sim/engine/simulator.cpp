// A loop around the Verilated engine: clock, AXI4-Lite master, stream sources and sink, as one C interface.
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "Vunit.h"
#include "trace.h"
#include "verilated.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif

namespace {

constexpr int kBytes = 16;

struct Beat {
    uint8_t data[kBytes];
    uint16_t keep;
    bool last;
};

// A stream into the engine: what waits, and the ports that it goes to.
struct Source {
    uint32_t* data;
    CData* valid;
    SData* keep;
    CData* last;
    CData* ready;
    std::deque<Beat> queue;
    bool offered = false;
};

constexpr int kSources = FGMP_WEIGHT_STREAMS + 1;  // weights first

struct Engine {
    VerilatedContext context;
    Vunit* top;
    Trace trace;
    std::vector<Source> sources;
    std::vector<uint8_t> received;
    std::vector<uint64_t> packets;  // bytes received when each TLAST came
    uint32_t stall[kSources + 1] = {};  // probabilities in 1 / 65536: the sources, then the results
    uint64_t random = 1;
    uint64_t cycles = 0;
    uint64_t interrupt_cycles = 0;
    uint64_t faults = 0;  // breaches of the handshake, at the result stream and at the registers
    bool waiting = false;
    Beat held;

    bool chance(uint32_t threshold) {
        if (threshold == 0) return false;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return (random >> 20 & 0xFFFF) < threshold;
    }
};

void drive(Engine* e, Source& source) {
    *source.valid = source.offered;
    if (source.offered) {
        const Beat& beat = source.queue.front();
        memcpy(source.data, beat.data, kBytes);
        *source.keep = beat.keep;
        *source.last = beat.last;
    } else {  // what is not valid may be anything, and change in every cycle
        uint64_t noise = (e->cycles + 1) * 0x9E3779B97F4A7C15ull;
        memcpy(source.data, &noise, 8);
        memcpy(source.data + 2, &noise, 8);
        *source.keep = noise >> 40 & 0xFFFF;
        *source.last = noise >> 60 & 1;
    }
}

#define SOURCE(name)                                                                              \
    {top->s_axis_##name##_tdata.m_storage, &top->s_axis_##name##_tvalid, &top->s_axis_##name##_tkeep, \
     &top->s_axis_##name##_tlast, &top->s_axis_##name##_tready, {}, false}

std::vector<Source> sources(Vunit* top) {
    return {
#if FGMP_WEIGHT_STREAMS == 1
        SOURCE(weights),
#else
        SOURCE(weights_0), SOURCE(weights_1),
#if FGMP_WEIGHT_STREAMS == 4
        SOURCE(weights_2), SOURCE(weights_3),
#endif
#endif
        SOURCE(activations),
    };
}

// Forget what is queued for a stream (as a DMA that is stopped).
void clear(Source& source) {
    source.queue.clear();
    source.offered = false;
}

void tick(Engine* e) {
    Vunit* top = e->top;
    for (int i = 0; i < kSources; i++) {
        Source& source = e->sources[i];
        // Valid never falls before ready was seen.
        source.offered = !source.queue.empty() && (source.offered || !e->chance(e->stall[i]));
        drive(e, source);
    }
    bool ready = !e->chance(e->stall[kSources]);
    top->m_axis_results_tready = ready;
    top->aclk = 0;
    top->eval();
    e->trace.dump();
    for (Source& source : e->sources)
        if (source.offered && *source.ready) source.queue.pop_front(), source.offered = false;
    if (top->m_axis_results_tvalid) {
        Beat beat;
        memcpy(beat.data, top->m_axis_results_tdata.m_storage, kBytes);
        beat.keep = top->m_axis_results_tkeep;
        beat.last = top->m_axis_results_tlast;
        if (e->waiting && (memcmp(beat.data, e->held.data, kBytes) || beat.keep != e->held.keep || beat.last != e->held.last))
            e->faults++;
        e->held = beat;
        e->waiting = !ready;
        if (ready) {
            for (int i = 0; i < kBytes; i++)
                if (beat.keep >> i & 1) e->received.push_back(beat.data[i]);
            if (beat.last) e->packets.push_back(e->received.size());
        }
    } else {
        if (e->waiting) e->faults++;
        e->waiting = false;
    }
    top->aclk = 1;
    top->eval();
    e->trace.dump();
    e->cycles++;
    e->interrupt_cycles += top->irq;
}

// Whether the engine offers or takes anything.
bool awake(Engine* e) {
    Vunit* top = e->top;
    bool any = top->s_axi_awready | top->s_axi_wready | top->s_axi_arready | top->s_axi_bvalid | top->s_axi_rvalid;
    for (Source& source : e->sources) any |= *source.ready;
    return any | top->m_axis_results_tvalid;
}

}  // namespace

extern "C" {

// Writes what was covered so far, where the model was built for it.
void fgmp_coverage(Engine* e, const char* path) {
#if VM_COVERAGE
    e->context.coveragep()->write(path);
#endif
}

Engine* fgmp_create(uint64_t seed, int random_state, uint32_t fault) {
    Engine* e = new Engine;
    e->random = seed * 0x9E3779B97F4A7C15ull | 1;
    e->context.randReset(random_state ? 2 : 0);
    e->context.randSeed(static_cast<int>(seed & 0x3FFFFFFF) + 1);
    e->top = new Vunit(&e->context);
#ifdef FGMP_FAULTS
    e->top->fault_select = fault;
#else
    (void)fault;
#endif
    e->top->aresetn = 0;
    e->top->s_axi_awvalid = e->top->s_axi_wvalid = e->top->s_axi_arvalid = 0;
    e->top->s_axi_bready = e->top->s_axi_rready = 1;
    e->sources = sources(e->top);
    for (Source& source : e->sources) *source.valid = 0;
    return e;
}

// From now on what happens goes into a file, while `reserve` bytes are free.
void fgmp_trace(Engine* e, const char* path, uint64_t reserve) { e->trace.open(e->top, e->context, path, reserve); }

// Returns whether all of it is there.
int fgmp_trace_end(Engine* e) { return e->trace.close(); }

void fgmp_destroy(Engine* e) {
    e->trace.close();
    e->top->final();
    delete e->top;
    delete e;
}

// Reset, and forget what was queued and received. No valid or ready may be high in it, but the ready of this side.
void fgmp_reset(Engine* e, int cycles) {
    for (Source& source : e->sources) clear(source);
    e->waiting = false;
    e->top->aresetn = 0;
    for (int i = 0; i < cycles; i++) {
        tick(e);
        e->waiting = false;  // what was on offer may be withdrawn
        e->faults += awake(e);
    }
    e->top->aresetn = 1;
    tick(e);
    e->received.clear();
    e->packets.clear();
    e->waiting = false;
}

// Forget all but the last beats of what is queued for a stream, and the one that is on offer.
void fgmp_trim(Engine* e, int stream, size_t beats) {
    std::deque<Beat>& queue = e->sources[stream].queue;
    size_t first = e->sources[stream].offered ? 1 : 0;
    if (queue.size() > first + beats) queue.erase(queue.begin() + first, queue.end() - beats);
}

// Forget everything queued (as DMAs that are stopped and emptied).
void fgmp_stop(Engine* e) {
    for (Source& source : e->sources) clear(source);
}

// Forget everything queued and received.
void fgmp_discard(Engine* e) {
    fgmp_stop(e);
    e->received.clear();
    e->packets.clear();
}

void fgmp_stall(Engine* e, int stream, double probability) { e->stall[stream] = static_cast<uint32_t>(probability * 65536); }

// Address, data and the readiness for the answer each come `delays` cycles late, in any order.
int fgmp_write(Engine* e, uint32_t address, uint32_t value, uint32_t strobes, const int* delays) {
    Vunit* top = e->top;
    bool address_taken = false, data_taken = false;
    int response = -1;
    for (int i = 0; i < 200 && response < 0; i++) {
        top->s_axi_awvalid = !address_taken && i >= delays[0];
        top->s_axi_wvalid = !data_taken && i >= delays[1];
        top->s_axi_bready = i >= delays[2];
        // Nothing may be taken from the buses while valid is low.
        top->s_axi_awaddr = top->s_axi_awvalid ? address : 0x3FFFC;
        top->s_axi_wdata = top->s_axi_wvalid ? value : 0xDEADBEEF;
        top->s_axi_wstrb = top->s_axi_wvalid ? strobes : 15;
        top->aclk = 0;
        top->eval();
        bool address_now = top->s_axi_awvalid && top->s_axi_awready;
        bool data_now = top->s_axi_wvalid && top->s_axi_wready;
        if (top->s_axi_bvalid && !(address_taken && data_taken)) e->faults++;  // an answer before its question
        if (top->s_axi_bvalid && top->s_axi_bready) response = top->s_axi_bresp;
        tick(e);
        address_taken |= address_now;
        data_taken |= data_now;
    }
    top->s_axi_awvalid = top->s_axi_wvalid = 0;
    top->s_axi_bready = 1;
    top->aclk = 0;
    top->eval();
    if (top->s_axi_bvalid) e->faults++;  // one answer a question
    return response;
}

// The readiness for the answer comes `late` cycles after the question was taken.
int fgmp_read(Engine* e, uint32_t address, uint32_t* value, int late) {
    Vunit* top = e->top;
    bool taken = false;
    int response = -1, waited = 0;
    bool seen = false;
    uint32_t first = 0;
    for (int i = 0; i < 200 && response < 0; i++) {
        top->s_axi_arvalid = !taken;
        top->s_axi_araddr = taken ? 0x3FFFC : address;
        top->s_axi_rready = taken && waited >= late;
        top->aclk = 0;
        top->eval();
        bool now = top->s_axi_arvalid && top->s_axi_arready;
        if (top->s_axi_rvalid && !taken) e->faults++;  // an answer before its question
        if (seen && (!top->s_axi_rvalid || top->s_axi_rdata != first)) e->faults++;  // or one that was withdrawn
        seen = top->s_axi_rvalid && !top->s_axi_rready;
        first = top->s_axi_rdata;
        if (top->s_axi_rvalid && top->s_axi_rready) {
            response = top->s_axi_rresp;
            *value = top->s_axi_rdata;
        }
        waited += taken;
        tick(e);
        taken |= now;
    }
    top->s_axi_arvalid = 0;
    top->s_axi_rready = 1;
    top->aclk = 0;
    top->eval();
    if (top->s_axi_rvalid) e->faults++;  // one answer a question
    return response;
}

// Writes and reads that do not wait for answers: each of the five channels goes on by itself, and pauses in a cycle with
// its probability (addresses, data, answers of writes; addresses, answers of reads). Returns 0, or -1 if answers are
// missing after many cycles.
int fgmp_overlapped(Engine* e, size_t writes, const uint32_t* addresses, const uint32_t* values, uint32_t* answers,
                    size_t reads, const uint32_t* asked, uint32_t* data, uint32_t* responses, const double* pauses) {
    Vunit* top = e->top;
    uint32_t pause[5];
    for (int i = 0; i < 5; i++) pause[i] = static_cast<uint32_t>(pauses[i] * 65536);
    size_t address = 0, value = 0, answer = 0, question = 0, reply = 0;
    bool offered[3] = {}, waiting[2] = {};
    uint32_t held[3] = {};
    for (size_t i = 0; i < 100 * (writes + reads + 10) && (answer < writes || reply < reads); i++) {
        // Valid never falls before ready was seen.
        top->s_axi_awvalid = offered[0] = address < writes && (offered[0] || !e->chance(pause[0]));
        top->s_axi_wvalid = offered[1] = value < writes && (offered[1] || !e->chance(pause[1]));
        top->s_axi_arvalid = offered[2] = question < reads && (offered[2] || !e->chance(pause[3]));
        top->s_axi_bready = !e->chance(pause[2]);
        top->s_axi_rready = !e->chance(pause[4]);
        top->s_axi_awaddr = offered[0] ? addresses[address] : 0x3FFFC;
        top->s_axi_wdata = offered[1] ? values[value] : 0xDEADBEEF;
        top->s_axi_wstrb = 15;
        top->s_axi_araddr = offered[2] ? asked[question] : 0x3FFFC;
        top->aclk = 0;
        top->eval();
        if (waiting[0] && (!top->s_axi_bvalid || top->s_axi_bresp != held[0])) e->faults++;
        if (waiting[1] && (!top->s_axi_rvalid || top->s_axi_rresp != held[1] || top->s_axi_rdata != held[2])) e->faults++;
        waiting[0] = top->s_axi_bvalid && !top->s_axi_bready;
        waiting[1] = top->s_axi_rvalid && !top->s_axi_rready;
        held[0] = top->s_axi_bresp;
        held[1] = top->s_axi_rresp;
        held[2] = top->s_axi_rdata;
        if (top->s_axi_bvalid && (answer >= address || answer >= value)) e->faults++;  // an answer before its question
        if (top->s_axi_rvalid && reply >= question) e->faults++;
        if (top->s_axi_bvalid && top->s_axi_bready && answer < writes) answers[answer++] = top->s_axi_bresp;
        if (top->s_axi_rvalid && top->s_axi_rready && reply < reads) {
            data[reply] = top->s_axi_rdata;
            responses[reply++] = top->s_axi_rresp;
        }
        bool taken[3] = {offered[0] && top->s_axi_awready, offered[1] && top->s_axi_wready, offered[2] && top->s_axi_arready};
        tick(e);
        address += taken[0];
        value += taken[1];
        question += taken[2];
        for (int n = 0; n < 3; n++) offered[n] = offered[n] && !taken[n];
    }
    top->s_axi_awvalid = top->s_axi_wvalid = top->s_axi_arvalid = 0;
    top->s_axi_bready = top->s_axi_rready = 1;
    for (int i = 0; i < 4; i++) {
        top->aclk = 0;
        top->eval();
        if (top->s_axi_bvalid || top->s_axi_rvalid) e->faults++;  // one answer a question
        tick(e);
    }
    return answer == writes && reply == reads ? 0 : -1;
}

// With `full` every beat says that all of its bytes count, as DMAs without TKEEP do.
void fgmp_send(Engine* e, int stream, const uint8_t* data, size_t size, int last, int full) {
    for (size_t position = 0; position < size || (position == 0 && last); position += kBytes) {
        Beat beat;  // one of no bytes, if that is all
        size_t count = size - position < kBytes ? size - position : kBytes;
        memset(beat.data, 0xA5, kBytes);  // what is not kept may be anything
        memcpy(beat.data, data + position, count);
        beat.keep = full ? (1u << kBytes) - 1 : (1u << count) - 1;
        beat.last = last && position + kBytes >= size;
        e->sources[stream].queue.push_back(beat);
    }
}

// Until the interrupt is high, or `limit` cycles have gone by.
uint64_t fgmp_run(Engine* e, uint64_t limit) {
    uint64_t count = 0;
    while (count < limit && !e->top->irq) tick(e), count++;
    return count;
}

// So many cycles, whatever the interrupt does.
void fgmp_wait(Engine* e, uint64_t count) {
    while (count--) tick(e);
}

int fgmp_interrupt(const Engine* e) { return e->top->irq; }
uint64_t fgmp_interrupt_cycles(const Engine* e) { return e->interrupt_cycles; }
uint64_t fgmp_cycles(const Engine* e) { return e->cycles; }
uint64_t fgmp_faults(const Engine* e) { return e->faults; }
size_t fgmp_queued(const Engine* e, int stream) { return e->sources[stream].queue.size(); }
int fgmp_weight_streams() { return FGMP_WEIGHT_STREAMS; }
size_t fgmp_received(const Engine* e) { return e->received.size(); }

// The first packet's bytes, which are then forgotten; returns their number, or -1 if there is none.
int64_t fgmp_packet(Engine* e, uint8_t* data, size_t room) {
    if (e->packets.empty()) return -1;
    size_t size = e->packets.front();
    if (size > room) return static_cast<int64_t>(size);
    if (size) memcpy(data, e->received.data(), size);
    e->received.erase(e->received.begin(), e->received.begin() + size);
    e->packets.erase(e->packets.begin());
    for (uint64_t& end : e->packets) end -= size;
    return static_cast<int64_t>(size);
}
}
