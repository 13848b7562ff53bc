"use strict";
// The page around configurator_model.js: reads the form, shows the numbers. Everything is computed here, nothing fetched.
(() => {
  const form = document.getElementById("configurator");
  if (!form) return;
  const data = window.fgmpConfigurator;
  const field = (name) => form.elements[name];
  const short = (x, digits = 3) => x.toLocaleString("en", x >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits });

  for (const name of Object.keys(data.models)) field("model").add(new Option(name, name));
  field("model").add(new Option("sizes of your own", ""));

  function show() {
    const own = field("model").value === "";
    form.querySelector(".own").hidden = !own;
    const shapes = own ? [[+field("outputs").value, +field("inputs").value, +field("count").value]] : data.models[field("model").value];
    const engine = { ...data.engine, lanes: +field("lanes").value, rows: +field("rows").value, weight_streams: +field("streams").value,
                     slots: +field("slots").value, k_max: +field("k_max").value };
    engine.packed_output = engine.lanes >= data.block;
    const tokens = +field("tokens").value, clock = +field("clock").value;
    const memory = field("memory").value === "" ? null : +field("memory").value, fp4 = +field("fp4").value / data.shares;
    const whole = (low, high) => (x) => Number.isInteger(x) && x >= low && x <= high;
    const problem = form.querySelector(".problem"), longest = Math.max(...shapes.map((shape) => shape[1]));
    const wrong = engine.lanes < 4 * engine.weight_streams ? "a stream of weights needs at least four lanes"
      : longest > engine.k_max ? `the longest K is ${longest}, more than the engine's ${engine.k_max}`
      : !shapes.flat().every(whole(1, 65535)) ? "sizes are whole numbers from 1 to 65,535"
      : !whole(1, 4096)(tokens) ? "tokens at once: a whole number from 1 to 4,096"
      : !(clock > 0) ? "the clock rate is a number above 0"
      : memory !== null && !(memory > 0) ? "memory brings a number of GB/s above 0, or leave it empty" : "";
    problem.textContent = wrong;
    form.querySelector(".results").hidden = wrong !== "";
    if (wrong) return;
    form.querySelector(".fp4").textContent = `${Math.round(100 * fp4)} %`;
    const kinds = [["mixed", fp4], ["all FP8", 0]];
    const rates = kinds.map(([, share]) => rateModel(data, engine, shapes, tokens, share, clock, memory));
    const joules = kinds.map(([, share], i) => rates[i].pairs * pairEnergy(data, share) * 1e-12 / tokens);
    const rows = [
      ["cycles per token", ...rates.map((rate) => short(rate.cycles_per_token))],
      ["tokens per second", ...rates.map((rate) => short(rate.tokens_per_second))],
      ["bytes per token", ...rates.map((rate) => short(rate.bytes_per_token))],
      ["weights, GB/s", ...rates.map((rate) => short(rate.weight_gb_s))],
      ["joules per token, matrix products", ...joules.map((j) => short(j))],
    ];
    form.querySelector("tbody.rate").innerHTML = rows.map((row) => `<tr>${row.map((cell, i) => i ? `<td>${cell}</td>` : `<th scope="row">${cell}</th>`).join("")}</tr>`).join("");
    form.querySelector(".speed").textContent = `${(rates[1].cycles / rates[0].cycles).toFixed(2)} times as fast as all FP8, ${(100 * (1 - joules[0] / joules[1])).toFixed(0)} % less energy`;
    const bits = bufferBits(data, engine);
    const sizes = Object.entries(bits).map(([name, count]) => [name, `${short(count / 8192)} KiB`]);
    sizes.push(["lanes' area, SkyWater 130 nm", `${(engine.lanes * data.lane_um2 / 1e6).toFixed(2)} mm²`]);
    form.querySelector("tbody.sizes").innerHTML = sizes.map(([name, size]) => `<tr><th scope="row">${name}</th><td>${size}</td></tr>`).join("");
  }
  form.addEventListener("input", show);
  show();
})();
