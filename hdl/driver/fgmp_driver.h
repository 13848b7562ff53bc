/* Driver of the fgmp engine. Freestanding C99: it needs stdint.h and stddef.h, and accesses registers by two functions
 * that you give it. Streams are yours to move: arm the DMA of the results, call fgmp_start, then send the packets of
 * weights and activations, whose bytes docs/engine.md lays out. */
#ifndef FGMP_DRIVER_H
#define FGMP_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "fgmp_engine.h"

typedef struct {
    uint32_t (*read)(void *context, uint32_t offset);
    void (*write)(void *context, uint32_t offset, uint32_t value);
    void *context;
} fgmp_bus;

enum {
    FGMP_OK = 0,
    FGMP_NO_ENGINE = -1,    /* ID is another one */
    FGMP_OTHER_MAP = -2,    /* VERSION is not FGMP_MAP_VERSION */
    FGMP_TOO_LARGE = -3,    /* M, N or K is 0 or more than this engine can do */
    FGMP_NOT_BUILT_IN = -4, /* asks for what this engine lacks */
    FGMP_REJECTED = -5,     /* START was refused: one waits already, or a register is illegal */
    FGMP_TIMEOUT = -6       /* no end after so many polls */
};

enum { FGMP_FLOAT32, FGMP_BFLOAT16, FGMP_PACKED };                            /* of results */
enum { FGMP_DYNAMIC, FGMP_STATIC, FGMP_ALL_FP4, FGMP_ALL_FP8 };               /* of a selector */
enum { FGMP_RAW_NONE, FGMP_RAW_FLOAT32, FGMP_RAW_BFLOAT16 };                  /* of activations that come unquantized */

/* What was built, read from the engine. */
typedef struct {
    fgmp_bus bus;
    uint32_t lanes, rows, slots, k_max, n_max, weight_streams, accumulator_bits;
    uint32_t raw_input, packed_output, channel_codes, four_over_six;
} fgmp_engine;

/* How a selector quantizes: of raw activations, or of packed results. */
typedef struct {
    uint8_t significand, exponent; /* the threshold is significand * 2**exponent, units of 2**-20 */
    uint8_t mode;
    uint8_t four_over_six;
    int8_t tensor_exponent;
    const uint8_t *static_fp8;    /* a byte for each block of 16 channels, 1 = FP8; NULL leaves them as they are */
    const uint8_t *channel_codes; /* 16 for each block, 0 to 15; NULL leaves them as they are */
} fgmp_site;

typedef struct {
    uint32_t m, n, k;
    uint8_t output;        /* FGMP_FLOAT32, ... */
    uint8_t relu;
    int8_t exponent;       /* sum of both tensor exponents */
    const fgmp_site *raw;  /* of raw activations; NULL where they come packed */
    const fgmp_site *pack; /* of packed results; NULL otherwise */
} fgmp_gemm;

/* Identify an engine. FGMP_OK, FGMP_NO_ENGINE or FGMP_OTHER_MAP. */
int fgmp_open(fgmp_engine *engine, fgmp_bus bus);

/* Write a GEMM's registers and START. One may be started while another runs. FGMP_OK, or why not. */
int fgmp_start(const fgmp_engine *engine, const fgmp_gemm *gemm);

/* Poll for the end of a GEMM, at most so many times; `events` gets the events that were set, which are then cleared.
 * FGMP_OK or FGMP_TIMEOUT. */
int fgmp_wait(const fgmp_engine *engine, uint32_t polls, uint32_t *events);

/* Forget all GEMMs and wait until an open packet of results is closed. FGMP_OK or FGMP_TIMEOUT. */
int fgmp_abort(const fgmp_engine *engine, uint32_t polls);

#endif
