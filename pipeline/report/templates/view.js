"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const stage = $("stage");
  const canvas = $("map");
  const context = canvas.getContext("2d");
  const facts = await (await fetch("facts")).json();
  const [rows, cols] = facts.shape;
  const color = facts.color;

  // Middle of the screen in pixels of the grid, and pixels of the screen for each.
  const place = { row: rows / 2, col: cols / 2, scale: 1 };
  let edge = 0.5;
  let layer = "change";
  let least = facts.least;
  let polygons = [];
  let selected = null;
  let sample = null;
  let point = null;
  let queue = { ids: [], at: -1, count: 0 };
  const verdicts = facts.review ? facts.review.verdicts : {};

  const number = (value, digits = 3) => Number(value.toPrecision(digits)).toLocaleString("en");
  const ground = (area) => {
    if (area >= 1e6) return `${number(area / 1e6)} km²`;
    return area >= 1e4 ? `${number(area / 1e4)} ha` : `${Math.round(area).toLocaleString("en")} m²`;
  };
  const complain = (text) => { $("message").textContent = text; };

  async function ask(address, options) {
    const response = await fetch(address, options);
    if (!response.ok) throw new Error((await response.text()).trim());
    return response.json();
  }

  // ---- tiles

  const tiles = new Map();
  const MOST_TILES = 700;
  let version = 0;

  const ramp = (() => {
    const stops = [[255, 243, 176], [253, 160, 82], color, [110, 0, 78]];
    return Array.from({ length: 256 }, (_, step) => {
      const along = Math.min(step / facts.steps, 1) * (stops.length - 1);
      const low = Math.min(Math.floor(along), stops.length - 2);
      return stops[low].map((value, band) => value + (stops[low + 1][band] - value) * (along - low));
    });
  })();

  function tile(name, level, row, column) {
    const key = `${name}/${level}/${row}/${column}`;
    let found = tiles.get(key);
    if (found) {
      tiles.delete(key);
      tiles.set(key, found);
      return found;
    }
    found = { picture: null, levels: null, version: -1 };
    tiles.set(key, found);
    if (tiles.size > MOST_TILES) tiles.delete(tiles.keys().next().value);
    load(name, key, found);
    return found;
  }

  let loading = 0;
  async function load(name, key, found) {
    loading += 1;
    stage.dataset.loading = loading;
    try {
      const response = await fetch(`tiles/${key}`);
      if (!response.ok) {
        if (response.status >= 500) complain((await response.text()).trim());
        return;
      }
      if (name === "probability") found.levels = new Uint8Array(await response.arrayBuffer());
      else found.picture = await createImageBitmap(await response.blob());
      redraw();
    } catch (error) {
      complain(`The map's server does not answer: ${error.message}`);
    } finally {
      loading -= 1;
      stage.dataset.loading = loading;
    }
  }

  // The picture of a tile of probabilities at the threshold; drawn again when that changes.
  function painted(found) {
    if (!found.levels) return null;
    if (found.version === version) return found.picture;
    if (!found.picture) {
      found.picture = document.createElement("canvas");
      found.picture.width = facts.side;
      found.picture.height = facts.side;
    }
    const target = found.picture.getContext("2d");
    const image = target.createImageData(facts.side, facts.side);
    const data = new Uint32Array(image.data.buffer);
    const packed = (c, alpha) => ((alpha << 24) | (c[2] << 16) | (c[1] << 8) | c[0]) >>> 0;
    const table = new Uint32Array(256);
    for (let level = 0; level < facts.nodata; level += 1) {
      if (layer === "change" && level >= least) table[level] = packed(color, 255);
      if (layer === "probability") table[level] = packed(ramp[level].map(Math.round), Math.min(255, Math.round(20 + 2.2 * level)));
    }
    found.levels.forEach((level, pixel) => { data[pixel] = table[level]; });
    target.putImageData(image, 0, 0);
    found.version = version;
    return found.picture;
  }

  const picture = (name, found) => (name === "probability" ? painted(found) : found.picture);

  // ---- drawing

  const screenX = (col, width) => (col - place.col) * place.scale + width / 2;
  const screenY = (row, height) => (row - place.row) * place.scale + height / 2;

  function drawLayer(name, width, height) {
    const level = Math.max(0, Math.min(facts.levels - 1, Math.floor(Math.log2(1 / place.scale) + 0.3)));
    const side = facts.side * 2 ** level;
    const first = { row: place.row - height / 2 / place.scale, col: place.col - width / 2 / place.scale };
    const last = { row: place.row + height / 2 / place.scale, col: place.col + width / 2 / place.scale };
    context.imageSmoothingEnabled = place.scale < 1;
    for (let row = Math.max(0, Math.floor(first.row / side)); row * side < Math.min(last.row, rows); row += 1) {
      for (let column = Math.max(0, Math.floor(first.col / side)); column * side < Math.min(last.col, cols); column += 1) {
        drawTile(name, level, row, column, width, height);
      }
    }
  }

  function drawTile(name, level, row, column, width, height) {
    const side = facts.side * 2 ** level;
    const high = Math.min(side, rows - row * side);
    const wide = Math.min(side, cols - column * side);
    const target = [
      screenX(column * side, width), screenY(row * side, height),
      wide * place.scale, high * place.scale,
    ];
    // Until a tile is there, the part of one further out.
    for (let up = 0; level + up < facts.levels; up += 1) {
      const outer = { row: row >> up, column: column >> up };
      const key = `${name}/${level + up}/${outer.row}/${outer.column}`;
      const found = up === 0 ? tile(name, level, row, column) : tiles.get(key);
      const shown = found && picture(name, found);
      if (!shown) continue;
      const unit = 2 ** (level + up);
      const y = (row * side - outer.row * facts.side * unit) / unit;
      const x = (column * side - outer.column * facts.side * unit) / unit;
      context.drawImage(shown, x, y, wide / unit, high / unit, ...target);
      return;
    }
  }

  function outline(polygon, width, height) {
    context.beginPath();
    for (const ring of polygon.rings) {
      ring.forEach(([col, row], index) => {
        const x = screenX(col, width);
        const y = screenY(row, height);
        if (index) context.lineTo(x, y); else context.moveTo(x, y);
      });
      context.closePath();
    }
    context.stroke();
  }

  const VERDICT_COLORS = { accepted: "#1fbf75", rejected: "#9aa0a6", unsure: "#f2b01e" };

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = stage;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (facts.dates) {
      context.save();
      context.beginPath();
      context.rect(edge * width, 0, width, height);
      context.clip();
      drawLayer("after", width, height);
      context.restore();
      context.save();
      context.beginPath();
      context.rect(0, 0, edge * width, height);
      context.clip();
      drawLayer("before", width, height);
      context.restore();
    }
    if (layer !== "none") {
      context.globalAlpha = Number($("opacity").value) / 100;
      drawLayer("probability", width, height);
      context.globalAlpha = 1;
    }
    context.lineJoin = "round";
    if ($("outlines").checked) {
      for (const polygon of polygons) {
        context.strokeStyle = VERDICT_COLORS[verdicts[polygon.id]] || "#ffffff";
        context.lineWidth = 1.25;
        outline(polygon, width, height);
      }
    }
    if (selected) {
      context.strokeStyle = "#000";
      context.lineWidth = 5;
      outline(selected, width, height);
      context.strokeStyle = "#ffe14d";
      context.lineWidth = 2.5;
      outline(selected, width, height);
    }
    if (point) square(width, height);
    $("tag-before").style.visibility = edge < 0.05 ? "hidden" : "visible";
    $("tag-after").style.visibility = edge > 0.95 ? "hidden" : "visible";
    $("edge").style.left = `${edge * 100}%`;
  }

  // The unit of the sample that is to be labelled, with a gap so that nothing of it is hidden.
  function square(width, height) {
    const [row, col, high, wide] = unit(point);
    const gap = 3;
    const box = [screenX(col, width) - gap, screenY(row, height) - gap, wide * place.scale + 2 * gap, high * place.scale + 2 * gap];
    context.strokeStyle = "#000";
    context.lineWidth = 4;
    context.strokeRect(...box);
    context.strokeStyle = "#35d0ff";
    context.lineWidth = 2;
    context.strokeRect(...box);
  }

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }

  // ---- moving

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  function fitting(high, wide) {
    return Math.min(stage.clientHeight / high, stage.clientWidth / wide);
  }

  let settle = 0;
  function moved() {
    place.scale = clamp(place.scale, 0.8 * fitting(rows, cols), 24);
    place.row = clamp(place.row, 0, rows);
    place.col = clamp(place.col, 0, cols);
    redraw();
    clearTimeout(settle);
    settle = setTimeout(() => {
      remember();
      loadPolygons();
    }, 150);
  }

  function remember() {
    const parts = [place.row.toFixed(1), place.col.toFixed(1), place.scale.toPrecision(4), least, selected ? selected.id : ""];
    history.replaceState(null, "", `#${parts.join(",")}`);
  }

  function recall() {
    const parts = location.hash.slice(1).split(",");
    if (parts.length < 4 || !parts.slice(0, 4).every((part) => part !== "" && Number.isFinite(Number(part)))) return null;
    [place.row, place.col, place.scale] = parts.slice(0, 3).map(Number);
    least = clamp(Math.round(Number(parts[3])), 1, facts.steps);
    return parts[4] ? Number(parts[4]) : null;
  }

  function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const before = { row: place.row + (y - stage.clientHeight / 2) / place.scale, col: place.col + (x - stage.clientWidth / 2) / place.scale };
    place.scale = clamp(place.scale * factor, 0.8 * fitting(rows, cols), 24);
    place.row = before.row - (y - stage.clientHeight / 2) / place.scale;
    place.col = before.col - (x - stage.clientWidth / 2) / place.scale;
    moved();
  }

  function showAll() {
    Object.assign(place, { row: rows / 2, col: cols / 2, scale: fitting(rows, cols) });
    moved();
  }

  function showPolygon(polygon) {
    const [top, left, bottom, right] = polygon.bounds;
    const scale = fitting(3 * Math.max(bottom - top, 12), 3 * Math.max(right - left, 12));
    Object.assign(place, { row: (top + bottom) / 2, col: (left + right) / 2, scale });
    moved();
  }

  const pointers = new Map();
  let start = null;
  let spread = 0;

  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button")) return;
    pointers.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
    start = pointers.size === 1 ? event : null;
    spread = 0;
    stage.classList.add("dragging");
  });
  stage.addEventListener("pointermove", (event) => {
    locate(event);
    const last = pointers.get(event.pointerId);
    if (!last) return;
    pointers.set(event.pointerId, event);
    const box = stage.getBoundingClientRect();
    if (pointers.size === 2) {
      const [one, other] = [...pointers.values()];
      const now = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      if (spread) zoom(now / spread, (one.clientX + other.clientX) / 2 - box.left, (one.clientY + other.clientY) / 2 - box.top);
      spread = now;
      start = null;
      return;
    }
    place.col -= (event.clientX - last.clientX) / place.scale;
    place.row -= (event.clientY - last.clientY) / place.scale;
    if (start && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) > 4) start = null;
    moved();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      if (end === "pointerup" && start && pointers.size === 1) pick(event);
      pointers.delete(event.pointerId);
      start = null;
      if (!pointers.size) stage.classList.remove("dragging");
    });
  }
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  $("zoom-in").addEventListener("click", () => zoom(1.6));
  $("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  $("zoom-all").addEventListener("click", showAll);
  window.addEventListener("resize", moved);

  const handle = $("edge");
  handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = stage.getBoundingClientRect();
    edge = clamp((event.clientX - box.left) / box.width, 0, 1);
    redraw();
  });
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    edge = clamp(edge + step, 0, 1);
    redraw();
  });

  function gridPoint(event) {
    const box = stage.getBoundingClientRect();
    return {
      row: place.row + (event.clientY - box.top - box.height / 2) / place.scale,
      col: place.col + (event.clientX - box.left - box.width / 2) / place.scale,
    };
  }

  function locate(event) {
    const { row, col } = gridPoint(event);
    const [a, b, c, d, e, f] = facts.transform;
    const digits = facts.crs && facts.crs !== "EPSG:4326" ? 1 : 5;
    $("status").textContent = facts.crs
      ? `${(a * col + b * row + c).toFixed(digits)}, ${(d * col + e * row + f).toFixed(digits)} (${facts.crs})`
      : `column ${Math.floor(col)}, row ${Math.floor(row)}`;
  }

  // ---- change

  function describe() {
    $("threshold").value = least;
    $("threshold-value").textContent = (least / facts.steps).toFixed(2);
    let valid = 0;
    let changed = 0;
    facts.histogram.forEach((count, level) => {
      valid += count;
      if (level >= least) changed += count;
    });
    const size = facts.pixel_m2 === null ? `${changed.toLocaleString("en")} px` : ground(changed * facts.pixel_m2);
    $("area").textContent = `${facts.exact ? "" : "about "}${size} changed (${((100 * changed) / Math.max(1, valid)).toFixed(2)} %)`;
  }
  function repaint() {
    version += 1;
    describe();
    redraw();
  }
  $("threshold").addEventListener("input", () => {
    least = Number($("threshold").value);
    repaint();
    clearTimeout(settle);
    settle = setTimeout(remember, 150);
  });
  $("opacity").addEventListener("input", redraw);
  document.querySelectorAll("[name=layer]").forEach((choice) => choice.addEventListener("change", () => {
    layer = choice.value;
    repaint();
  }));

  // ---- polygons and their review

  // From nothing to the largest in a hundred steps of equal ratio.
  const smallest = () => {
    const step = Number($("size").value);
    const top = Math.max(2, facts.polygons.largest);
    return step ? top ** (step / 100) : 0;
  };
  const filter = () => `size=${smallest()}&probability=${$("mean").value}`;

  let asked = 0;
  async function loadPolygons() {
    if (!facts.polygons || !$("outlines").checked) return;
    asked += 1;
    const mine = asked;
    const { clientWidth: width, clientHeight: height } = stage;
    const half = { row: height / 2 / place.scale, col: width / 2 / place.scale };
    const view = [place.row - half.row, place.col - half.col, place.row + half.row, place.col + half.col];
    try {
      const found = await ask(`polygons?view=${view.join(",")}&${filter()}`);
      if (mine !== asked) return;
      polygons = found.polygons;
      const more = found.count > polygons.length ? `the largest ${polygons.length.toLocaleString("en")} of ` : "";
      $("shown").textContent = `${more}${found.count.toLocaleString("en")} here`;
      redraw();
    } catch (error) {
      complain(error.message);
    }
  }

  function filtered() {
    $("size-value").textContent = facts.polygons.in_metres ? ground(smallest()) : `${Math.round(smallest())} px`;
    $("mean-value").textContent = Number($("mean").value).toFixed(2);
    loadPolygons();
    loadQueue();
  }

  async function loadQueue() {
    try {
      const found = await ask(`queue?order=${$("order").value}&state=all&${filter()}`);
      queue = { ids: found.ids, at: selected ? found.ids.indexOf(selected.id) : -1, count: found.count };
      count();
    } catch (error) {
      complain(error.message);
    }
  }

  function count() {
    const given = queue.ids.filter((id) => verdicts[id]).length;
    $("progress").textContent = `${given.toLocaleString("en")} of ${queue.count.toLocaleString("en")}`;
  }

  const signed = (value, digits) =>
    value === null ? null : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(Math.abs(value) < 1 ? 2 : digits)}`;

  function select(polygon, show) {
    selected = polygon;
    const list = $("attributes");
    list.replaceChildren();
    if (polygon) {
      const names = {
        id: ["id", (value) => value],
        area_m2: ["area", (value) => (value === null ? null : ground(value))],
        pixels: ["pixels", (value) => value.toLocaleString("en")],
        mean_probability: ["mean probability", (value) => value.toFixed(2)],
        max_probability: ["largest probability", (value) => value.toFixed(2)],
        kind: ["looks like", (value) => value],
        ndvi_change: ["NDVI", (value) => signed(value, 2)],
        brightness_change: ["brightness", (value) => signed(value, 0)],
      };
      const rows = Object.entries(names).map(([key, [label, text]]) => {
        // Layers of earlier versions lack the last ones.
        const value = polygon[key];
        return [label, value === undefined ? null : text(value)];
      });
      for (const [key, before] of Object.entries(polygon.bands || {})) {
        if (!key.startsWith("before_") || before === null) continue;
        const name = key.slice("before_".length);
        const after = polygon.bands[`after_${name}`];
        rows.push([name, [before, after].map((value) => Number(value.toPrecision(4))).join(" → ")]);
      }
      for (const [label, value] of rows) {
        if (value === null) continue;
        const line = document.createElement("div");
        const term = document.createElement("dt");
        const definition = document.createElement("dd");
        term.textContent = label;
        definition.textContent = value;
        line.append(term, definition);
        list.append(line);
      }
      if (show) showPolygon(polygon);
      queue.at = queue.ids.indexOf(polygon.id);
    }
    showVerdict();
    remember();
    redraw();
  }

  function showVerdict() {
    document.querySelectorAll("[data-verdict]").forEach((button) => {
      button.disabled = !selected;
      button.setAttribute("aria-pressed", String(Boolean(selected) && verdicts[selected.id] === button.dataset.verdict));
    });
  }

  async function pick(event) {
    if (!facts.polygons) return;
    const { row, col } = gridPoint(event);
    try {
      const found = await ask(`at?row=${row}&column=${col}`);
      select(found.id === undefined ? null : found, false);
    } catch (error) {
      complain(error.message);
    }
  }

  async function step(by) {
    if (!queue.ids.length) return;
    // Forward to the next one without a verdict; backward to the one before.
    let at = queue.at;
    do {
      at += by;
    } while (by > 0 && at < queue.ids.length && verdicts[queue.ids[at]]);
    if (at < 0 || at >= queue.ids.length) return;
    queue.at = at;
    await open(queue.ids[at], true);
  }

  async function open(id, show) {
    try {
      select(await ask(`polygon/${id}`), show);
    } catch (error) {
      complain(error.message);
    }
  }

  async function judge(verdict) {
    if (!selected) return;
    const { id } = selected;
    const given = verdicts[id] === verdict ? null : verdict;
    try {
      await ask("review", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id, verdict: given }),
      });
    } catch (error) {
      complain(`Not kept: ${error.message}`);
      return;
    }
    if (given) verdicts[id] = given; else delete verdicts[id];
    complain("");
    showVerdict();
    count();
    redraw();
    if (given) await step(1);
  }

  $("next").addEventListener("click", () => step(1));
  $("previous").addEventListener("click", () => step(-1));
  $("order").addEventListener("change", loadQueue);
  $("size").addEventListener("input", filtered);
  $("mean").addEventListener("input", filtered);
  $("outlines").addEventListener("change", () => {
    polygons = [];
    loadPolygons();
    redraw();
  });
  document.querySelectorAll("[data-verdict]").forEach((button) => {
    button.addEventListener("click", () => judge(button.dataset.verdict));
  });

  // ---- points of a sample

  const unit = ([, row, col]) => {
    const { side } = sample;
    return [row * side, col * side, Math.min(side, rows - row * side), Math.min(side, cols - col * side)];
  };

  function showPoint(at) {
    sample.at = at;
    point = sample.points[at];
    const [row, col, high, wide] = unit(point);
    Object.assign(place, { row: row + high / 2, col: col + wide / 2, scale: fitting(high + 60, wide + 60) });
    // Beside the edge, which would lie over the middle.
    edge = edge < 0.5 ? 0 : 1;
    select(null, false);
    moved();
    showLabel();
  }

  function showLabel() {
    document.querySelectorAll("[data-label]").forEach((button) => {
      button.disabled = !point;
      button.setAttribute("aria-pressed", String(Boolean(point) && sample.labels[point[0]] === button.dataset.label));
    });
    const given = sample.points.filter(([id]) => sample.labels[id]).length;
    const which = point ? `point ${point[0]}, ` : "";
    $("sample-progress").textContent = `${which}${given.toLocaleString("en")} of ${sample.points.length.toLocaleString("en")}`;
  }

  function stepPoint(by) {
    let at = point ? sample.at : -1;
    do {
      at += by;
    } while (by > 0 && at < sample.points.length && sample.labels[sample.points[at][0]]);
    if (at >= 0 && at < sample.points.length) showPoint(at);
  }

  async function labelPoint(label) {
    if (!point) return;
    const [id] = point;
    const given = sample.labels[id] === label ? null : label;
    try {
      await ask("label", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id, label: given }),
      });
    } catch (error) {
      complain(`Not kept: ${error.message}`);
      return;
    }
    if (given) sample.labels[id] = given; else delete sample.labels[id];
    complain("");
    showLabel();
    if (given) stepPoint(1);
  }

  function flip() {
    edge = edge < 0.5 ? 1 : 0;
    redraw();
  }

  async function startSample() {
    sample = await ask("sample");
    $("sample-file").textContent = `Kept in ${sample.file}`;
    // What the map says would sway who labels.
    layer = "none";
    document.querySelector("[name=layer][value=none]").checked = true;
    $("outlines").checked = false;
    showLabel();
  }

  $("sample-next").addEventListener("click", () => stepPoint(1));
  $("sample-previous").addEventListener("click", () => stepPoint(-1));
  $("flip").addEventListener("click", flip);
  document.querySelectorAll("[data-label]").forEach((button) => {
    button.addEventListener("click", () => labelPoint(button.dataset.label));
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
    const pan = 80 / place.scale;
    const actions = {
      a: () => judge("accepted"), r: () => judge("rejected"), f: flip,
      // With a sample these go by its points until a polygon is chosen.
      u: () => (sample && !selected ? labelPoint("unclear") : judge("unsure")),
      n: () => (sample && !selected ? stepPoint(1) : step(1)), p: () => (sample && !selected ? stepPoint(-1) : step(-1)),
      c: () => labelPoint("change"), x: () => labelPoint("no change"),
      "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: showAll,
      ArrowUp: () => { place.row -= pan; moved(); }, ArrowDown: () => { place.row += pan; moved(); },
      ArrowLeft: () => { place.col -= pan; moved(); }, ArrowRight: () => { place.col += pan; moved(); },
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  // ---- start

  document.title = facts.title;
  $("title").textContent = facts.title;
  $("place").textContent = facts.place;
  $("licence").textContent = facts.licence ? `Weights: ${facts.licence}.` : "";
  for (const text of [...facts.absent, ...facts.warnings]) {
    const item = document.createElement("li");
    item.textContent = text;
    $("warnings").append(item);
  }
  for (const id of ["edge", "tag-before", "tag-after"]) $(id).hidden = !facts.dates;
  $("sample-section").hidden = !facts.sample;
  for (const id of ["polygon-section", "review-section"]) $(id).hidden = !facts.polygons;
  $("file").textContent = facts.review ? `Kept in ${facts.review.file}` : "";
  Object.assign(place, { scale: fitting(rows, cols) });
  const id = recall();
  describe();
  showVerdict();
  moved();
  if (facts.sample) await startSample();
  if (facts.polygons) {
    filtered();
    if (id) await open(id, false);
  }
  document.documentElement.dataset.ready = "true";
})();
