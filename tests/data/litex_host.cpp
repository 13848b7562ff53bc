// Stands for the CPU of a LiteX SoC: a bus master whose accesses are a C program's, one after the other.
#include <cstdint>

#include "Vsoc.h"
#include "verilated.h"

namespace {

Vsoc* soc = new Vsoc;
uint64_t cycles = 0;

void cycle() {
    soc->sys_clk = 0;
    soc->eval();
    soc->sys_clk = 1;
    soc->eval();
    cycles++;
}

uint32_t access(uint32_t address, bool write, uint32_t value) {
    soc->host_adr = address / 4;
    soc->host_we = write;
    soc->host_dat_w = value;
    soc->host_sel = 15;
    soc->host_cyc = soc->host_stb = 1;
    for (int i = 0; i < 10000; i++) {
        soc->sys_clk = 0;
        soc->eval();
        bool done = soc->host_ack;
        uint32_t answer = soc->host_dat_r;
        cycle();
        if (done) {
            soc->host_cyc = soc->host_stb = 0;
            cycle();
            return answer;
        }
    }
    return 0xDEADBEEF;
}

}  // namespace

extern "C" {
void csr_write_simple(unsigned long value, unsigned long address) { access(address, true, value); }
unsigned long csr_read_simple(unsigned long address) { return access(address, false, 0); }
uint64_t host_cycles() { return cycles; }
int host_interrupt() { return soc->engine_irq; }
}
