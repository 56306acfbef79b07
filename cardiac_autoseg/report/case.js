"use strict";
const byId = (id) => document.getElementById(id);
const root = document.documentElement;
// What went wrong, and what is shown, can be read from the root element.
addEventListener("error", (event) => { root.dataset.error = event.message; });
addEventListener("unhandledrejection", (event) => { root.dataset.error = String(event.reason); });

const data = JSON.parse(byId("data").textContent);
const [rowMm, columnMm] = data.spacing;
const size = { width: data.region.width * columnMm, height: data.region.height * rowMm };
const state = { frame: 0, slice: Math.floor((data.slices - 1) / 2), grid: false, contours: true, fill: 0.12, speed: 1, playing: false };
const shown = data.classes.map(() => true);
const images = [];
const paths = new Map();
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
{% include "case_draw.js" %}
{% include "case_curve.js" %}

// ---- State: one function shows it, one changes it ----

function show() {
  drawScreen();
  drawCursor();
  for (const key of ["frame", "slice"]) if (byId(key)) byId(key).value = state[key] + 1;
  for (const key of ["grid", "contours"]) byId(key).setAttribute("aria-pressed", state[key]);
  byId("screen").className = state.grid ? "grid" : data.slices > 1 ? "" : "single";
  byId("stage").setAttribute("aria-label", `${state.grid ? "All slices" : `Slice ${state.slice + 1} of ${data.slices}`}, ${frameText(state.frame)}`);
  if (byId("play")) byId("play").textContent = state.playing ? "❚❚ Pause" : "▶ Play";
  Object.assign(root.dataset, { frame: state.frame + 1, slice: state.slice + 1, view: state.grid ? "grid" : "single", contours: state.contours, playing: state.playing });
}

function set(change) {
  const turned = change.grid !== undefined && change.grid !== state.grid;
  Object.assign(state, change);
  state.frame = ((state.frame % data.frames) + data.frames) % data.frames;
  state.slice = clamp(state.slice, 0, data.slices - 1);
  if (turned) show(); // the stage takes its new width before it is drawn again
  show();
}

const go = (frame) => { if (frame !== null) set({ frame, playing: false }); };

// One beat lasts as long as the scan's times say; without them, a second.
function frameMs() {
  const times = data.times;
  const real = times && times[data.frames - 1] > times[0] ? (times[data.frames - 1] - times[0]) / (data.frames - 1) : 1000 / data.frames;
  return real / state.speed;
}

let timer = 0;

function play(playing = !state.playing) {
  if (data.frames < 2) return;
  clearTimeout(timer);
  set({ playing });
  let last = performance.now();
  const step = () => {
    if (!state.playing) return;
    const frames = Math.floor((performance.now() - last) / frameMs());
    if (frames > 0) {
      last += frames * frameMs();
      set({ frame: state.frame + frames });
    }
    timer = setTimeout(step, Math.max(4, last + frameMs() - performance.now()));
  };
  if (playing) step();
}

// "frame=7&slice=3&view=grid&contours=off", counted from 1.
function follow(address) {
  const wanted = new URLSearchParams(address.replace(/^#/, ""));
  const change = { playing: false };
  for (const [key, count] of [["frame", data.frames], ["slice", data.slices]]) {
    const number = parseInt(wanted.get(key), 10);
    if (number >= 1) change[key] = Math.min(number, count) - 1;
  }
  if (wanted.has("view")) change.grid = wanted.get("view") === "grid";
  if (wanted.has("contours")) change.contours = wanted.get("contours") !== "off";
  set(change);
}

const keys = {
  ArrowLeft: () => go(state.frame - 1),
  ArrowRight: () => go(state.frame + 1),
  ArrowUp: () => set({ slice: state.slice - 1 }),
  ArrowDown: () => set({ slice: state.slice + 1 }),
  " ": () => play(),
  c: () => set({ contours: !state.contours }),
  g: () => set({ grid: !state.grid }),
  e: () => go(data.ed),
  s: () => go(data.es),
  Escape: () => set({ grid: false }),
};

function listen() {
  addEventListener("keydown", (event) => {
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const own = event.target.closest?.("input[type=range]:not(#frame):not(#slice), select") || (event.key === " " && event.target.closest?.("button, a, input"));
    if (!action || own || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });
  const on = (id, type, action) => byId(id)?.addEventListener(type, action);
  on("play", "click", () => play());
  on("ed", "click", keys.e);
  on("es", "click", keys.s);
  on("grid", "click", keys.g);
  on("contours", "click", keys.c);
  on("speed", "change", (event) => { state.speed = Number(event.target.value); });
  on("frame", "input", (event) => go(event.target.value - 1));
  on("slice", "input", (event) => set({ slice: event.target.value - 1 }));
  on("fill", "input", (event) => set({ fill: event.target.value / 100 }));
  for (const id of ["brightness", "contrast"]) {
    on(id, "input", () => {
      const filter = `brightness(${byId("brightness").value}%) contrast(${byId("contrast").value}%)`;
      for (const canvas of document.querySelectorAll(".layers canvas:first-child")) canvas.style.filter = filter;
    });
  }
  for (const box of document.querySelectorAll("[data-class]")) {
    box.addEventListener("change", () => { shown[box.dataset.class] = box.checked; show(); });
  }
  for (const id of ["stage", "strip"]) {
    on(id, "click", (event) => {
      const { left, top } = byId(id).getBoundingClientRect();
      const unit = devicePixelRatio || 1, x = (event.clientX - left) * unit, y = (event.clientY - top) * unit;
      const slice = byId(id).boxes.findIndex((box) => x >= box.x && y >= box.y && x < box.x + box.width && y < box.y + box.height);
      if (slice >= 0) set({ slice, grid: false });
    });
  }
  on("stage", "wheel", (event) => {
    // Only where the image was clicked before, so that the page still scrolls.
    if (document.activeElement !== byId("stage")) return;
    event.preventDefault();
    set({ slice: state.slice + Math.sign(event.deltaY) });
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='#frame'], a[href^='#slice']");
    if (link) {
      event.preventDefault(); // the address may already be the present one
      follow(link.getAttribute("href"));
      byId("viewer").scrollIntoView({ block: "nearest" });
    }
  });
  addEventListener("hashchange", () => follow(location.hash));
  addEventListener("resize", () => { drawCurve(); show(); });
  addEventListener("beforeprint", drawPaper);
}

async function start() {
  await Promise.all(data.images.map((source, slice) => new Promise((resolve, reject) => {
    images[slice] = new Image();
    images[slice].onload = resolve;
    images[slice].onerror = () => reject(new Error(`the picture of slice ${slice + 1} cannot be read`));
    images[slice].src = source;
  })));
  const { columns, step } = data.sheet;
  const right = images.every((image) => image.naturalWidth === columns * step[1] && image.naturalHeight === Math.ceil(data.frames / columns) * step[0]);
  if (!right || images.length !== data.slices) throw new Error("the pictures of this page do not have the sizes they should have");
  if (data.ed !== null) state.frame = data.ed;
  listen();
  drawCurve();
  follow(location.hash);
  drawPaper();
  root.dataset.state = "ready";
}
start();
