"use strict";
// The formulas of fgmp.hdl.gemm_rate, fgmp.sim.rate_model and the engine's buffers, with the constants and tables of
// `configurator_data`. A test holds them against Python, number by number.

function ceilDiv(a, b) { return Math.ceil(a / b); }

function roundHalfEven(x) {
  const low = Math.floor(x), rest = x - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

function tiles(size, tile) {
  return [...Array(Math.floor((size - 1) / tile)).fill(tile), (size - 1) % tile + 1];
}

function recordBytes(data, blocks, fp4) {
  return ceilDiv(blocks, 8) + blocks * (fp4 * (1 + data.block / 2) + (1 - fp4) * data.block);
}

function sum(values) { return values.reduce((a, b) => a + b, 0); }

function rawBytes(data, engine, blocks) {
  return blocks * data.block * (engine.raw_input === "bfloat16" ? 2 : 4);
}

// Cycles from a step's first row to that of the next.
function stepCycles(data, engine, rows, fp4) {
  const shortest = Math.max(Math.floor(engine.lanes / (2 * engine.weight_streams)) + 1, data.shortest_step);
  if (rows >= data.few_rows || engine.row_order === "ascending" || fp4 === 0 || fp4 === 1) return Math.max(rows, shortest);
  return data.steps[shortest][rows][Math.round(fp4 * data.shares) - 1];
}

// A GEMM: load has rows, outputs, columns, weight_fp4, activation_fp4, raw; results leave as float32.
function gemmRate(data, engine, load, streamBytes) {
  const c = data.constants;
  const mTiles = tiles(load.rows, engine.rows), nTiles = tiles(load.outputs, engine.lanes);
  const kTiles = tiles(ceilDiv(load.columns, data.block), data.tile_blocks);
  const resident = kTiles.length <= engine.slots;
  const groups = Math.floor(engine.lanes / (2 * engine.weight_streams));
  let weightsLoaded = c.begin, activationsLoaded = c.begin, computed = 0, drained = 0, held = [];
  const weightSlots = [0, 0], activationSlots = Array(engine.slots).fill(0);

  function rowTile(rows) {
    const step = stepCycles(data, engine, rows, load.activation_fp4);
    nTiles.forEach((lanes, index) => {
      const last = index === nTiles.length - 1;
      kTiles.forEach((blocks, position) => {
        const weightRows = ceilDiv(lanes, engine.weight_streams);
        const needed = weightRows * recordBytes(data, blocks, load.weight_fp4) / streamBytes;
        weightsLoaded = Math.max(weightsLoaded, weightSlots.shift()) + Math.max(needed, weightRows * (1 + ceilDiv(blocks, 2)) + 1);
        if (index === 0 || !resident) {
          const cycles = load.raw
            ? rows * rawBytes(data, engine, blocks) / data.stream_bytes + engine.selector_pipeline + c.selector
            : Math.max(rows * recordBytes(data, blocks, load.activation_fp4) / data.stream_bytes, rows * (1 + blocks) + 1);
          activationsLoaded = Math.max(activationsLoaded, activationSlots.shift()) + cycles;
          held = [...held.slice(0, position), activationsLoaded];
        }
        const begin = Math.max(computed, weightsLoaded + groups + c.weights_to_row, held[position] + c.activations_to_row);
        computed = begin + blocks * step;
        weightSlots.push(Math.max(begin + (blocks - 2) * step, weightsLoaded) + groups);
        if (position === kTiles.length - 1) {
          const cycles = Math.floor(engine.lanes / c.group);
          computed = Math.max(computed, drained - (engine.rows - rows) * cycles);
          const first = computed - Math.max(step, rows) + engine.pipeline + c.to_result;
          drained = Math.max(drained, first) + rows * cycles;
        }
        if (last || !resident) activationSlots.push(computed - step + rows);
      });
    });
    return drained;
  }

  const followed = mTiles.length <= c.followed ? mTiles : [...mTiles.slice(0, c.followed - 1), mTiles[mTiles.length - 1]];
  const ends = followed.map(rowTile);
  let cycles = ends[ends.length - 1] + c.from_result;
  if (mTiles.length > followed.length) cycles += (mTiles.length - followed.length) * (ends[ends.length - 2] - ends[ends.length - 3]);
  const blocks = sum(kTiles);
  const records = (fp4) => sum(kTiles.map((tile) => recordBytes(data, tile, fp4)));
  const sent = load.raw ? rawBytes(data, engine, blocks) : records(load.activation_fp4);
  return {
    cycles: roundHalfEven(cycles),
    products: load.rows * blocks * nTiles.length,
    weight_bytes: load.outputs * records(load.weight_fp4) * mTiles.length,
    activation_bytes: load.rows * sent * (resident ? 1 : nTiles.length),
    result_bytes: load.rows * nTiles.length * engine.lanes * 4,
  };
}

// All linears of a model once: shapes are [outputs, inputs, count]; memory in GB/s (null: all that the engine takes).
function rateModel(data, engine, shapes, tokens, fp4, clock, memoryGBs) {
  const memory = memoryGBs === null ? Infinity : memoryGBs * 1e9 / (clock * 1e6);
  const stream = Math.min(16, memory / engine.weight_streams);
  let cycles = 0, moved = 0, weights = 0, pairs = 0;
  for (const [outputs, columns, count] of shapes) {
    const load = { rows: tokens, outputs, columns, weight_fp4: fp4, activation_fp4: fp4, raw: engine.raw_input !== "none" };
    const rate = gemmRate(data, engine, load, stream);
    const total = rate.weight_bytes + rate.activation_bytes + rate.result_bytes;
    cycles += count * Math.max(rate.cycles, total / memory);
    weights += count * rate.weight_bytes;
    moved += count * total;
    pairs += count * rate.products * engine.lanes;
  }
  const seconds = cycles / (clock * 1e6);
  return {
    cycles: roundHalfEven(cycles), cycles_per_token: cycles / tokens, tokens_per_second: tokens / seconds,
    weight_bytes: roundHalfEven(weights), bytes_per_token: moved / tokens, weight_gb_s: weights / seconds / 1e9, pairs,
  };
}

// pJ of a block pair at a share of blocks in FP4: what was measured, and straight lines between.
function pairEnergy(data, fp4) {
  const points = data.energy, next = points.findIndex(([share]) => share >= fp4);
  if (next <= 0) return points[0][1];
  const [[low, from], [high, to]] = [points[next - 1], points[next]];
  return from + (to - from) * (fp4 - low) / (high - low);
}

// Bits of the engine's memories and of its sums.
function bufferBits(data, engine) {
  const words = engine.slots * engine.rows * data.tile_blocks, sums = engine.lanes * engine.rows * (data.accumulator_bits[engine.k_max] + 1);
  const block = 8 * data.block + 9;
  return {
    activations: words * (block - 1) + engine.rows * engine.slots * data.tile_blocks,
    weights: 2 * engine.lanes * data.tile_blocks * block,
    sums, results: sums,
    packer: engine.packed_output ? 2 * engine.rows * data.tile_blocks * block : 0,
  };
}
