#include "fgmp_litex.h"

#include <generated/csr.h>
#include <generated/mem.h>

enum { BEAT = 16, WORD = FGMP_WORD_BYTES }; /* of the streams, of the SoC's bus */

static uint32_t get(void *context, uint32_t offset) {
    (void)context;
    return csr_read_simple(ENGINE_REGISTERS_BASE + offset);
}

static void put(void *context, uint32_t offset, uint32_t value) {
    (void)context;
    csr_write_simple(value, ENGINE_REGISTERS_BASE + offset);
}

fgmp_bus fgmp_litex_bus(void) {
    fgmp_bus bus = {get, put, NULL};
    return bus;
}

/* The functions of a stream into the engine: one begins to send, one stops. */
#define SENDER(name)                                                              \
    static void send_##name(fgmp_buffer packet) {                                 \
        engine_##name##_dma_base_write(packet.address);                           \
        engine_##name##_dma_length_write((packet.bytes + WORD - 1) / WORD * WORD); \
        engine_##name##_tail_write((packet.bytes - 1) % BEAT + 1);                \
        engine_##name##_dma_enable_write(1);                                      \
    }                                                                             \
    static void stop_##name(void) { engine_##name##_dma_enable_write(0); }

typedef struct {
    void (*send)(fgmp_buffer packet);
    void (*stop)(void);
} sender;

SENDER(activations)
#ifdef CSR_ENGINE_WEIGHTS_DMA_BASE_ADDR
SENDER(weights)
static const sender senders[] = {{send_weights, stop_weights}};
#else
SENDER(weights_0)
SENDER(weights_1)
#ifdef CSR_ENGINE_WEIGHTS_2_DMA_BASE_ADDR
SENDER(weights_2)
SENDER(weights_3)
#endif
static const sender senders[] = {
    {send_weights_0, stop_weights_0},
    {send_weights_1, stop_weights_1},
#ifdef CSR_ENGINE_WEIGHTS_2_DMA_BASE_ADDR
    {send_weights_2, stop_weights_2},
    {send_weights_3, stop_weights_3},
#endif
};
#endif

static void stop_all(void) {
    size_t i;
    for (i = 0; i < sizeof senders / sizeof *senders; i++) senders[i].stop();
    stop_activations();
    engine_results_dma_enable_write(0);
}

int fgmp_litex_run(const fgmp_engine *engine, const fgmp_gemm *gemm, const fgmp_buffer *weights,
                   fgmp_buffer activations, fgmp_buffer results, uint32_t polls, uint32_t *events) {
    size_t i;
    int status;
    if (engine->weight_streams != sizeof senders / sizeof *senders) return FGMP_NOT_BUILT_IN;
    if (!activations.bytes || !results.bytes || results.bytes % BEAT) return FGMP_BAD_BUFFER;
    for (i = 0; i < sizeof senders / sizeof *senders && i < gemm->n; i++)
        if (!weights[i].bytes) return FGMP_BAD_BUFFER; /* a DMA without a length has no end */
    stop_all();
    put(NULL, FGMP_EVENTS, ~(uint32_t)0); /* what a GEMM before left, which would end this one at once */
    engine_results_dma_base_write(results.address);
    engine_results_dma_length_write(results.bytes);
    engine_results_dma_enable_write(1);
    status = fgmp_start(engine, gemm);
    if (status == FGMP_OK) { /* a GEMM that was refused must be sent nothing */
        for (i = 0; i < sizeof senders / sizeof *senders && i < gemm->n; i++) senders[i].send(weights[i]);
        send_activations(activations);
        status = fgmp_wait(engine, polls, events);
        /* The last words are on their way when the engine has ended. */
        while (status == FGMP_OK && !engine_results_dma_done_read())
            if (!polls--) status = FGMP_TIMEOUT;
    }
    stop_all();
    return status;
}
