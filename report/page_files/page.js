"use strict";
// Maps: each is decoded once into a small canvas, one pixel a cell, in the colors of the page.
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

function color(name) {
  const probe = document.createElement("i");
  probe.className = name;
  document.body.append(probe);
  const found = getComputedStyle(probe).backgroundColor.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

function read(button) {
  const data = button.dataset;
  const [cellRows, cellBlocks] = data.cell.split(" ").map(Number);
  const bytes = Uint8Array.from(atob(data.cells), (c) => c.charCodeAt(0));
  const rows = Math.ceil(data.rows / cellRows), blocks = Math.ceil(data.blocks / cellBlocks);
  const exact = cellRows * cellBlocks === 1;
  const share = exact
    ? (row, block) => { const i = row * blocks + block; return (bytes[i >> 3] >> (i & 7)) & 1; }
    : (row, block) => bytes[row * blocks + block] / 255;
  return { name: data.name, outputs: Number(data.rows), columns: Number(data.blocks), cellRows, cellBlocks, rows, blocks,
           exact, share };
}

function paint(map, canvas) {  // output channels to the right, blocks downwards
  canvas.width = map.rows;
  canvas.height = map.blocks;
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.rows, map.blocks);
  const low = color("fp4"), high = color("fp8");
  for (let block = 0; block < map.blocks; block++) {
    for (let row = 0; row < map.rows; row++) {
      const at = 4 * (block * map.rows + row), part = map.share(row, block);
      for (let c = 0; c < 3; c++) image.data[at + c] = low[c] + part * (high[c] - low[c]);
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

const maps = new Map([...document.querySelectorAll("button.map")].map((button) => [button, read(button)]));
const dialog = document.getElementById("zoom"), big = dialog.querySelector("canvas"), said = document.getElementById("zoom-cell");
let open = null, view = null;

function paintAll() {
  for (const [button, map] of maps) paint(map, button.querySelector("canvas"));
  if (open) draw();
}

function whole(map) { return { x: 0, y: 0, width: map.rows, height: map.blocks }; }

function draw() {
  const context = big.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, big.width, big.height);
  context.drawImage(open.querySelector("canvas"), view.x, view.y, view.width, view.height, 0, 0, big.width, big.height);
}

function describe(x, y) {  // in cells
  const map = maps.get(open), row = Math.floor(x), block = Math.floor(y);
  if (row < 0 || block < 0 || row >= map.rows || block >= map.blocks) { said.textContent = ""; return; }
  const span = (first, size, end) => {
    const last = Math.min(first + size, end) - 1;
    return last === first ? `${first}` : `${first} to ${last}`;
  };
  const outputs = span(row * map.cellRows, map.cellRows, map.outputs);
  const blocks = span(block * map.cellBlocks, map.cellBlocks, map.columns);
  const share = map.share(row, block);
  const what = map.exact ? (share ? "FP8" : "FP4") : `${(100 * share).toFixed(0)} % FP8`;
  const inputs = span(16 * block * map.cellBlocks, 16 * map.cellBlocks, 16 * map.columns);
  said.textContent = `output channel ${outputs}, block ${blocks} (input channels ${inputs}): ${what}`;
}

function place(event) {
  const box = big.getBoundingClientRect();
  return [view.x + (event.clientX - box.left) / box.width * view.width,
          view.y + (event.clientY - box.top) / box.height * view.height];
}

function zoom(factor, x, y) {
  const map = maps.get(open);
  const width = Math.min(map.rows, Math.max(4, view.width * factor)), height = Math.min(map.blocks, Math.max(2, view.height * factor));
  move(x - (x - view.x) * width / view.width, y - (y - view.y) * height / view.height, width, height);
}

function move(x, y, width = view.width, height = view.height) {
  const map = maps.get(open);
  view = { x: Math.min(Math.max(x, 0), map.rows - width), y: Math.min(Math.max(y, 0), map.blocks - height), width, height };
  draw();
}

for (const [button, map] of maps) {
  button.addEventListener("click", () => {
    open = button;
    view = whole(map);
    document.getElementById("zoom-name").textContent = map.name;
    said.textContent = "";
    dialog.showModal();
    big.focus();
    draw();
  });
}
dialog.addEventListener("close", () => { open = null; });
big.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY > 0 ? 1.25 : 0.8, ...place(event)); });
big.addEventListener("pointermove", (event) => {
  if (event.buttons) {
    const box = big.getBoundingClientRect();
    move(view.x - event.movementX / box.width * view.width, view.y - event.movementY / box.height * view.height);
  }
  describe(...place(event));
});
big.addEventListener("keydown", (event) => {
  const middle = () => [view.x + view.width / 2, view.y + view.height / 2];
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key in steps) {
    const [x, y] = steps[event.key];
    move(view.x + x * Math.max(1, view.width / 10), view.y + y * Math.max(1, view.height / 10));
  } else if (event.key === "+" || event.key === "=") zoom(0.8, ...middle());
  else if (event.key === "-") zoom(1.25, ...middle());
  else if (event.key === "0") { view = whole(maps.get(open)); draw(); }
  else return;
  event.preventDefault();
  describe(...middle());
});

function turn() {
  const now = root.dataset.theme || (dark.matches ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  paintAll();
}
document.getElementById("theme").addEventListener("click", turn);
document.addEventListener("keydown", (event) => { if (event.key === "t" && !dialog.open) turn(); });
dark.addEventListener("change", paintAll);
paintAll();
