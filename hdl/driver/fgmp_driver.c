#include "fgmp_driver.h"

#define FIELD(value, name) (((value) & FGMP_##name##_MASK) >> FGMP_##name##_SHIFT)
#define PLACED(value, name) (((uint32_t)(value) << FGMP_##name##_SHIFT) & FGMP_##name##_MASK)

enum { BLOCK = 16, REFUSALS = FGMP_EVENTS_START_REJECTED_MASK | FGMP_EVENTS_CONFIG_ERROR_MASK };

static uint32_t get(const fgmp_engine *engine, uint32_t offset) {
    return engine->bus.read(engine->bus.context, offset);
}

static void put(const fgmp_engine *engine, uint32_t offset, uint32_t value) {
    engine->bus.write(engine->bus.context, offset, value);
}

int fgmp_open(fgmp_engine *engine, fgmp_bus bus) {
    uint32_t shape, features, limits;
    engine->bus = bus;
    if (get(engine, FGMP_ID) != FGMP_ID_EXPECTED) return FGMP_NO_ENGINE;
    if (FIELD(get(engine, FGMP_VERSION), VERSION_MAP) != FGMP_MAP_VERSION) return FGMP_OTHER_MAP;
    shape = get(engine, FGMP_SHAPE);
    features = get(engine, FGMP_FEATURES);
    limits = get(engine, FGMP_LIMITS);
    engine->lanes = FIELD(shape, SHAPE_LANES);
    engine->rows = FIELD(shape, SHAPE_ROWS);
    engine->slots = FIELD(shape, SHAPE_SLOTS);
    engine->raw_input = FIELD(features, FEATURES_RAW_INPUT);
    engine->packed_output = FIELD(features, FEATURES_PACKED_OUTPUT);
    engine->channel_codes = FIELD(features, FEATURES_CHANNEL_CODES);
    engine->four_over_six = FIELD(features, FEATURES_FOUR_OVER_SIX);
    engine->accumulator_bits = FIELD(features, FEATURES_ACCUMULATOR_BITS);
    engine->weight_streams = FIELD(features, FEATURES_WEIGHT_STREAMS);
    engine->k_max = FIELD(limits, LIMITS_K_MAX);
    engine->n_max = FIELD(limits, LIMITS_N_MAX_BLOCKS) * BLOCK;
    return FGMP_OK;
}

static int possible(const fgmp_engine *engine, const fgmp_gemm *gemm) {
    const fgmp_site *sites[2];
    int i;
    if (!gemm->m || !gemm->n || !gemm->k) return FGMP_TOO_LARGE;
    if (gemm->m > FGMP_M_VALUE_MASK || gemm->n > FGMP_N_VALUE_MASK || gemm->k > engine->k_max) return FGMP_TOO_LARGE;
    if (gemm->pack && gemm->n > engine->n_max) return FGMP_TOO_LARGE;
    if ((gemm->output == FGMP_PACKED) != (gemm->pack != NULL)) return FGMP_NOT_BUILT_IN;
    if (gemm->pack && !engine->packed_output) return FGMP_NOT_BUILT_IN;
    if (gemm->raw && !engine->raw_input) return FGMP_NOT_BUILT_IN;
    sites[0] = gemm->raw;
    sites[1] = gemm->pack;
    for (i = 0; i < 2; i++) {
        if (!sites[i]) continue;
        if (sites[i]->four_over_six && !engine->four_over_six) return FGMP_NOT_BUILT_IN;
        if (sites[i]->channel_codes && !engine->channel_codes) return FGMP_NOT_BUILT_IN;
    }
    return FGMP_OK;
}

/* Both selectors' registers have the same fields. */
static void put_site(const fgmp_engine *engine, uint32_t offset, uint32_t window, const fgmp_site *site, uint32_t k) {
    uint32_t block, half, i, blocks = (k + BLOCK - 1) / BLOCK;
    put(engine, offset,
        PLACED(site->significand, INPUT_SELECTOR_SIGNIFICAND) | PLACED(site->exponent, INPUT_SELECTOR_EXPONENT) |
            PLACED(site->mode, INPUT_SELECTOR_MODE) | PLACED(site->four_over_six, INPUT_SELECTOR_FOUR_OVER_SIX) |
            PLACED((uint8_t)site->tensor_exponent, INPUT_SELECTOR_TENSOR_EXPONENT));
    for (block = 0; block < blocks; block++) {
        uint32_t base = window + FGMP_SITE_STRIDE * block;
        if (site->static_fp8) put(engine, base, site->static_fp8[block]);
        for (half = 0; site->channel_codes && half < 2; half++) {
            const uint8_t *codes = site->channel_codes + BLOCK * block + 8 * half;
            uint32_t word = 0;
            for (i = 0; i < 8; i++) word |= (uint32_t)(codes[i] & 15) << 4 * i;
            put(engine, base + 4 * (1 + half), word);
        }
    }
}

int fgmp_start(const fgmp_engine *engine, const fgmp_gemm *gemm) {
    uint32_t refused;
    int can = possible(engine, gemm);
    if (can != FGMP_OK) return can;
    put(engine, FGMP_M, gemm->m);
    put(engine, FGMP_N, gemm->n);
    put(engine, FGMP_K, gemm->k);
    put(engine, FGMP_FORMAT,
        PLACED(gemm->output, FORMAT_OUTPUT) | PLACED(gemm->raw != NULL, FORMAT_RAW_INPUT) |
            PLACED(gemm->relu, FORMAT_RELU) | PLACED((uint8_t)gemm->exponent, FORMAT_EXPONENT));
    if (gemm->raw) put_site(engine, FGMP_INPUT_SELECTOR, FGMP_INPUT_SITE, gemm->raw, gemm->k);
    if (gemm->pack) put_site(engine, FGMP_OUTPUT_SELECTOR, FGMP_OUTPUT_SITE, gemm->pack, gemm->n);
    put(engine, FGMP_CONTROL, FGMP_CONTROL_START_MASK);
    refused = get(engine, FGMP_EVENTS) & REFUSALS;
    if (!refused) return FGMP_OK;
    put(engine, FGMP_EVENTS, refused);
    return FGMP_REJECTED;
}

int fgmp_wait(const fgmp_engine *engine, uint32_t polls, uint32_t *events) {
    while (polls--) {
        uint32_t set = get(engine, FGMP_EVENTS);
        if (set & FGMP_EVENTS_DONE_MASK) {
            put(engine, FGMP_EVENTS, set);
            if (events) *events = set;
            return FGMP_OK;
        }
    }
    return FGMP_TIMEOUT;
}

int fgmp_abort(const fgmp_engine *engine, uint32_t polls) {
    put(engine, FGMP_CONTROL, FGMP_CONTROL_ABORT_MASK);
    while (polls--) {
        if (!(get(engine, FGMP_STATUS) & FGMP_STATUS_CLOSING_MASK)) return FGMP_OK;
    }
    return FGMP_TIMEOUT;
}
