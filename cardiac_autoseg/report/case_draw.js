
// ---- Drawing: everything is laid out in mm, then scaled ----

function pathOf(frame, slice, index) {
  const key = (frame * data.slices + slice) * data.classes.length + index;
  if (!paths.has(key)) {
    const path = new Path2D();
    for (const ring of data.outlines[frame][slice][index]) {
      let x = 0, y = 0;
      for (let i = 0; i < ring.length; i += 2) {
        x += ring[i];
        y += ring[i + 1];
        path[i ? "lineTo" : "moveTo"]((x / data.fraction) * columnMm, (y / data.fraction) * rowMm);
      }
      path.closePath();
    }
    paths.set(key, path);
  }
  return paths.get(key);
}

function drawSlice(image, lines, frame, slice, box, lineWidth) {
  const scale = Math.min(box.width / size.width, box.height / size.height);
  const x = box.x + (box.width - size.width * scale) / 2, y = box.y + (box.height - size.height * scale) / 2;
  const { width, height, edge, columns, step } = data.sheet;
  image.imageSmoothingQuality = "high";
  image.drawImage(images[slice], (frame % columns) * step[1] + edge, Math.floor(frame / columns) * step[0] + edge, width, height,
    x, y, size.width * scale, size.height * scale);
  if (!state.contours) return { x, y, scale };
  lines.save();
  lines.beginPath();
  lines.rect(x, y, size.width * scale, size.height * scale);
  lines.clip();
  lines.translate(x, y);
  lines.scale(scale, scale);
  lines.lineWidth = lineWidth / scale;
  lines.lineJoin = "round";
  data.classes.forEach((item, index) => {
    if (!shown[index]) return;
    const path = pathOf(frame, slice, index);
    lines.fillStyle = lines.strokeStyle = item.color;
    lines.globalAlpha = state.fill;
    lines.fill(path, "evenodd");
    lines.globalAlpha = 1;
    lines.stroke(path);
  });
  lines.restore();
  return { x, y, scale };
}

// Boxes for all slices: as many columns as make them largest.
function mosaic(width, height, gap) {
  let best = { scale: 0 };
  for (let columns = 1; columns <= data.slices; columns += 1) {
    const rows = Math.ceil(data.slices / columns);
    const scale = Math.min((width / columns - gap) / size.width, (height / rows - gap) / size.height);
    if (scale > best.scale) best = { scale, columns, rows };
  }
  const w = size.width * best.scale + gap, h = size.height * best.scale + gap;
  const left = (width - w * best.columns) / 2, top = (height - h * best.rows) / 2;
  return Array.from({ length: data.slices }, (_, z) => ({
    x: left + (z % best.columns) * w + gap / 2, y: top + Math.floor(z / best.columns) * h + gap / 2, width: w - gap, height: h - gap,
  }));
}

function write(context, text, x, y, pixels, align = "left") {
  context.font = `600 ${pixels}px system-ui, "Segoe UI", Roboto, Arial, sans-serif`;
  context.textAlign = align;
  context.lineWidth = pixels / 4;
  context.strokeStyle = "rgba(0, 0, 0, .75)";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
}

// A slice with a warning.
function drawMark(context, x, y, unit) {
  context.fillStyle = "#ffc233";
  context.beginPath();
  context.arc(x, y, 8 * unit, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = "#000";
  context.textAlign = "center";
  context.fillText("!", x, y + 4.5 * unit);
}

const isMarked = (slice, frame) => data.marks.some(([t, z]) => z === slice && (t === null || t === frame));

function drawMosaic(image, lines, frame, width, height, unit, chosen) {
  const boxes = mosaic(width, height, 4 * unit);
  boxes.forEach((box, slice) => {
    drawSlice(image, lines, frame, slice, box, 1.3 * unit);
    write(lines, String(slice + 1), box.x + 5 * unit, box.y + 16 * unit, 12 * unit);
    if (isMarked(slice, frame)) drawMark(lines, box.x + box.width - 13 * unit, box.y + 12 * unit, unit);
    if (slice !== chosen) return;
    lines.lineWidth = 2 * unit;
    lines.strokeStyle = "#6db7e8";
    lines.strokeRect(box.x - unit, box.y - unit, box.width + 2 * unit, box.height + 2 * unit);
  });
  return boxes;
}

// The two contexts of a view, image below and lines above, as large as it is on the screen, and empty.
function layers(view) {
  const unit = devicePixelRatio || 1;
  const width = Math.round(view.clientWidth * unit), height = Math.round(view.clientHeight * unit);
  const contexts = [...view.querySelectorAll("canvas")].map((canvas) => {
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    return context;
  });
  return { image: contexts[0], lines: contexts[1], unit, width, height };
}

const phase = (frame) => (frame === data.ed ? "ED" : frame === data.es ? "ES" : "");

function frameText(frame) {
  const time = data.times ? `${Math.round(data.times[frame])} ms` : "";
  return [`Frame ${frame + 1} / ${data.frames}`, time, phase(frame)].filter(Boolean).join(" · ");
}

function drawScreen() {
  const { image, lines, unit, width, height } = layers(byId("stage"));
  const { frame, slice } = state;
  let boxes = [];
  if (state.grid) {
    boxes = drawMosaic(image, lines, frame, width, height, unit, slice);
  } else {
    const { scale } = drawSlice(image, lines, frame, slice, { x: 0, y: 0, width, height }, 2 * unit);
    write(lines, `Slice ${slice + 1} / ${data.slices}`, 12 * unit, 24 * unit, 15 * unit);
    const length = 50 * scale;
    lines.fillStyle = "#fff";
    lines.fillRect(12 * unit, height - 14 * unit, length, 2 * unit);
    write(lines, "5 cm", 12 * unit, height - 20 * unit, 12 * unit);
  }
  if (data.frames > 1) write(lines, frameText(frame), width - 12 * unit, (state.grid ? height / unit - 12 : 24) * unit, 15 * unit, "right");
  byId("stage").boxes = boxes;
  if (byId("strip").clientWidth) {
    const view = layers(byId("strip"));
    byId("strip").boxes = drawMosaic(view.image, view.lines, frame, view.width, view.height, view.unit, slice);
  }
}

function drawPaper() {
  for (const [id, frame] of [["paper-ed", data.ed ?? 0], ["paper-es", data.es ?? 0]]) {
    const canvas = byId(id);
    if (!canvas) continue;
    const columns = Math.min(data.slices, Math.max(4, Math.ceil(data.slices / 2)));
    canvas.width = 1600;
    canvas.height = Math.ceil((1600 / columns) * (size.height / size.width) * Math.ceil(data.slices / columns));
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, canvas.width, canvas.height);
    drawMosaic(context, context, frame, canvas.width, canvas.height, 1.6, -1);
  }
}
