
// ---- The volume-time curve ----

const plot = { left: 46, right: 14, top: 22, bottom: 40, height: 250, width: 0, most: 1 };
const timeOf = (frame) => (data.times ? data.times[frame] : frame + 1);

function svg(name, attributes, parent, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

// 1, 2 or 5 times a power of ten, so that an axis to `most` has about `count` steps.
function niceStep(most, count) {
  const power = 10 ** Math.floor(Math.log10(most / count));
  return power * [1, 2, 5, 10].find((factor) => factor * power * count >= most);
}

function atX(frame) {
  const first = timeOf(0), last = timeOf(data.frames - 1);
  return plot.left + ((timeOf(frame) - first) / (last - first || 1)) * (plot.width - plot.left - plot.right);
}

const atY = (volume) => plot.height - plot.bottom - (volume / plot.most) * (plot.height - plot.top - plot.bottom);

// The colours of the outlines, darker, as the page is white.
function colorOf(name) {
  const color = data.classes.find((item) => item.name === name)?.color ?? "#808080";
  return `#${[1, 3, 5].map((at) => Math.round(0.65 * parseInt(color.slice(at, at + 2), 16)).toString(16).padStart(2, "0")).join("")}`;
}

function drawCurve() {
  const place = byId("curve");
  if (!place) return;
  place.textContent = "";
  plot.width = Math.max(360, place.clientWidth);
  const label = "Volumes of the ventricles over the heart beat; click to go to a frame";
  const picture = svg("svg", { viewBox: `0 0 ${plot.width} ${plot.height}`, role: "img", "aria-label": label }, place);
  const volumes = Object.values(data.volumes).flat().filter((value) => value !== null);
  const step = niceStep(Math.max(10, ...volumes) * 1.04, 5);
  plot.most = Math.ceil((Math.max(10, ...volumes) * 1.04) / step) * step;
  for (let value = 0; value <= plot.most + step / 2; value += step) {
    svg("line", { x1: plot.left, x2: plot.width - plot.right, y1: atY(value), y2: atY(value), stroke: "#dbe2e8" }, picture);
    svg("text", { x: plot.left - 7, y: atY(value) + 4, "text-anchor": "end" }, picture, String(Math.round(value)));
  }
  svg("text", { x: 4, y: 12 }, picture, "mL");
  drawTimes(picture);
  for (const [frame, word] of [[data.ed, "ED"], [data.es, "ES"]]) {
    if (frame === null) continue;
    svg("line", { x1: atX(frame), x2: atX(frame), y1: plot.top, y2: plot.height - plot.bottom, stroke: "#5b6b7b", "stroke-dasharray": "4 4" }, picture);
    svg("text", { x: atX(frame), y: plot.top - 7, "text-anchor": "middle", class: "end" }, picture, word);
  }
  for (const [name, values] of Object.entries(data.volumes)) drawLine(picture, values, colorOf(name));
  svg("line", { id: "cursor", y1: plot.top, y2: plot.height - plot.bottom, stroke: "#c2410c", "stroke-width": 2 }, picture);
  for (const name of Object.keys(data.volumes)) {
    svg("circle", { id: `at-${name}`, r: 6, fill: "#fff", stroke: colorOf(name), "stroke-width": 3 }, picture);
  }
  const jump = (event) => {
    const x = ((event.clientX - picture.getBoundingClientRect().left) / picture.getBoundingClientRect().width) * plot.width;
    let nearest = 0;
    for (let frame = 1; frame < data.frames; frame += 1) if (Math.abs(atX(frame) - x) < Math.abs(atX(nearest) - x)) nearest = frame;
    go(nearest);
  };
  picture.addEventListener("pointerdown", (event) => { picture.setPointerCapture(event.pointerId); jump(event); });
  picture.addEventListener("pointermove", (event) => { if (event.buttons) jump(event); });
}

function drawTimes(picture) {
  const first = timeOf(0), last = timeOf(data.frames - 1);
  const step = Math.max(1, niceStep(last - first || 1, Math.max(3, Math.floor(plot.width / 110))));
  for (let time = Math.ceil(first / step) * step; time <= last; time += step) {
    const x = plot.left + ((time - first) / (last - first || 1)) * (plot.width - plot.left - plot.right);
    svg("line", { x1: x, x2: x, y1: plot.height - plot.bottom, y2: plot.height - plot.bottom + 5, stroke: "#9fb0bf" }, picture);
    svg("text", { x, y: plot.height - plot.bottom + 19, "text-anchor": "middle" }, picture, String(Math.round(time)));
  }
  svg("text", { x: plot.width - plot.right, y: plot.height - 5, "text-anchor": "end" }, picture, data.times ? "time, ms" : "frame");
}

// A frame without a volume leaves a gap.
function drawLine(picture, values, color) {
  let pen = "";
  const steps = values.map((value, frame) => {
    if (value === null) { pen = ""; return ""; }
    const step = `${pen ? "L" : "M"}${atX(frame).toFixed(1)} ${atY(value).toFixed(1)}`;
    pen = step;
    svg("circle", { cx: atX(frame), cy: atY(value), r: 2.6, fill: color }, picture);
    return step;
  });
  svg("path", { d: steps.join(""), fill: "none", stroke: color, "stroke-width": 2.4 }, picture);
}

function drawCursor() {
  if (!byId("cursor")) return;
  const x = atX(state.frame);
  byId("cursor").setAttribute("x1", x);
  byId("cursor").setAttribute("x2", x);
  const texts = [frameText(state.frame)];
  for (const [name, values] of Object.entries(data.volumes)) {
    const value = values[state.frame], dot = byId(`at-${name}`);
    dot.setAttribute("visibility", value === null ? "hidden" : "visible");
    if (value !== null) { dot.setAttribute("cx", x); dot.setAttribute("cy", atY(value)); }
    texts.push(`${name} ${value === null ? "–" : Math.round(value)} mL`);
  }
  byId("reading").replaceChildren(...texts.flatMap((text, index) => {
    const part = document.createElement("span");
    part.textContent = text;
    const name = Object.keys(data.volumes)[index - 1];
    if (name) Object.assign(part.style, { color: colorOf(name), fontWeight: 600 });
    return index ? [" · ", part] : [part];
  }));
}
