/* GEMMs from memory to memory in a LiteX SoC, by the peripheral of fgmp_litex.py, which the SoC calls `engine`.
 * Needs generated/csr.h and generated/mem.h, which LiteX writes for the SoC. */
#ifndef FGMP_LITEX_H
#define FGMP_LITEX_H

#include "fgmp_driver.h"

/* Bytes of a packet, or room for one. The address is a multiple of the bus's word; DMAs read and write whole words. */
typedef struct {
    uint64_t address;
    uint32_t bytes;
} fgmp_buffer;

enum { FGMP_BAD_BUFFER = -7 }; /* a packet without bytes, or room that is no multiple of 16 bytes */

/* What fgmp_open takes. */
fgmp_bus fgmp_litex_bus(void);

/* Run a GEMM: `weights` is a packet for each of the engine's weight streams, in the layout of docs/engine.md; `results`
 * is room for whole beats of 16 bytes. Write the operands back from the CPU's caches before, and invalidate the results
 * in them afterwards. It polls at most `polls` times for the GEMM's end, and as often for the last words of its results.
 * `events` gets the events that were set: the results are right if DONE was the only one. FGMP_OK, or why not; the DMAs
 * are at rest then. After FGMP_TIMEOUT the GEMM is still there: call fgmp_abort before the next one. */
int fgmp_litex_run(const fgmp_engine *engine, const fgmp_gemm *gemm, const fgmp_buffer *weights,
                   fgmp_buffer activations, fgmp_buffer results, uint32_t polls, uint32_t *events);

#endif
