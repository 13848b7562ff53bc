// A loop around a Verilated unit without streams: in every cycle all inputs are given and all outputs are kept.
#include <cstdint>
#include <cstring>

#include "Vunit.h"
#include "verilated.h"

extern "C" {

// `inputs` has the bytes of every input, cycle by cycle, `outputs` room for those of every output. From reset on.
void fgmp_cycles(size_t cycles, const uint8_t* inputs, uint8_t* outputs) {
    VerilatedContext context;
    Vunit top(&context);
    for (size_t cycle = 0; cycle < cycles; cycle++) {
#define CLOCK(name) top.name = 0;
#define INPUT(name, bytes) memcpy(&top.name, inputs, bytes), inputs += bytes;
#define OUTPUT(name, bytes)
#include "ports.h"
#undef CLOCK
#undef INPUT
#undef OUTPUT
        top.eval();
#define CLOCK(name) top.name = 1;
#define INPUT(name, bytes)
#define OUTPUT(name, bytes) memcpy(outputs, &top.name, bytes), outputs += bytes;
#include "ports.h"
        top.eval();
    }
    top.final();
}
}
