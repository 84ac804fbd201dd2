"use strict";
(() => {
  const view = JSON.parse(document.getElementById("view").textContent);
  const stage = document.querySelector(".stage");
  const layers = document.querySelector(".layers");
  const overlay = document.querySelector(".overlay");
  const source = document.getElementById("probability");
  const swipe = document.getElementById("swipe");
  const threshold = document.getElementById("threshold");
  const opacity = document.getElementById("opacity");
  const context = overlay.getContext("2d");
  let levels = null;
  let layer = "change";

  // Light yellow through orange to the colour of change: dark and saturated means likely.
  const ramp = (() => {
    const stops = [[255, 243, 176], [253, 160, 82], view.color, [110, 0, 78]];
    return Array.from({ length: 256 }, (_, step) => {
      const place = Math.min(step / view.steps, 1) * (stops.length - 1);
      const low = Math.min(Math.floor(place), stops.length - 2);
      return stops[low].map((value, band) => value + (stops[low + 1][band] - value) * (place - low));
    });
  })();

  function draw() {
    const least = Number(threshold.value);
    document.getElementById("threshold-value").textContent = (least / view.steps).toFixed(2);
    describe(least);
    if (!levels) return;
    const image = context.createImageData(overlay.width, overlay.height);
    for (let pixel = 0; pixel < levels.length; pixel += 1) {
      const level = levels[pixel];
      if (level === view.nodata || layer === "none") continue;
      if (layer === "change" && level < least) continue;
      const color = layer === "change" ? view.color : ramp[level];
      const at = 4 * pixel;
      image.data[at] = color[0];
      image.data[at + 1] = color[1];
      image.data[at + 2] = color[2];
      image.data[at + 3] = layer === "change" ? 255 : Math.min(255, 20 + 2.2 * level);
    }
    context.putImageData(image, 0, 0);
  }

  function describe(least) {
    let valid = 0;
    let changed = 0;
    view.histogram.forEach((count, level) => {
      valid += count;
      if (level >= least) changed += count;
    });
    const share = valid ? (100 * changed) / valid : 0;
    const size = view.pixel_m2 === null ? `${changed.toLocaleString("en")} px` : ground(changed * view.pixel_m2);
    const about = view.exact ? "" : "about ";
    document.getElementById("area").textContent =
      `At ${(least / view.steps).toFixed(2)}: ${about}${size} changed (${share.toFixed(2)} %)`;
  }

  function ground(area) {
    if (area >= 1e6) return `${(area / 1e6).toPrecision(3)} km²`;
    return area >= 1e4 ? `${(area / 1e4).toPrecision(3)} ha` : `${Math.round(area)} m²`;
  }

  // Place of the view: zoom, and shift of the upper left corner in pixels of the screen.
  const place = { zoom: 1, x: 0, y: 0 };

  function show() {
    const box = stage.getBoundingClientRect();
    place.x = Math.min(0, Math.max(box.width * (1 - place.zoom), place.x));
    place.y = Math.min(0, Math.max(box.height * (1 - place.zoom), place.y));
    layers.style.setProperty("--zoom", place.zoom);
    layers.style.setProperty("--x", `${place.x}px`);
    layers.style.setProperty("--y", `${place.y}px`);
    stage.classList.toggle("zoomed", place.zoom > 1);
    const at = swipe ? Number(swipe.value) : 0;
    stage.style.setProperty("--at", `${at}%`);
    const cut = ((at / 100) * box.width - place.x) / (place.zoom * box.width);
    stage.style.setProperty("--cut", `${Math.min(100, Math.max(0, 100 * cut))}%`);
  }

  function zoom(factor, x, y) {
    const next = Math.min(16, Math.max(1, place.zoom * factor));
    place.x = x - ((x - place.x) * next) / place.zoom;
    place.y = y - ((y - place.y) * next) / place.zoom;
    place.zoom = next;
    show();
  }

  const pointers = new Map();
  let swiping = false;
  let spread = 0;

  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button")) return;
    const box = stage.getBoundingClientRect();
    const edge = box.left + (box.width * (swipe ? Number(swipe.value) : -1000)) / 100;
    swiping = pointers.size === 0 && (Math.abs(event.clientX - edge) < 28 || (place.zoom === 1 && Boolean(swipe)));
    pointers.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("dragging");
    move(event);
  });
  function move(event) {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const box = stage.getBoundingClientRect();
    if (pointers.size === 2) {
      pointers.set(event.pointerId, event);
      const [one, other] = [...pointers.values()];
      const now = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      if (spread) {
        zoom(now / spread, (one.clientX + other.clientX) / 2 - box.left, (one.clientY + other.clientY) / 2 - box.top);
      }
      spread = now;
      swiping = false;
      return;
    }
    if (swiping) {
      swipe.value = (100 * (event.clientX - box.left)) / box.width;
    } else {
      place.x += event.clientX - last.clientX;
      place.y += event.clientY - last.clientY;
    }
    pointers.set(event.pointerId, event);
    show();
  }
  stage.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      pointers.delete(event.pointerId);
      spread = 0;
      stage.classList.remove("dragging");
    });
  }
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && place.zoom === 1 && event.deltaY > 0) return;
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  document.querySelectorAll("[data-zoom]").forEach((button) => {
    button.addEventListener("click", () => {
      const box = stage.getBoundingClientRect();
      zoom(Number(button.dataset.zoom), box.width / 2, box.height / 2);
    });
  });

  if (swipe) swipe.addEventListener("input", show);
  threshold.addEventListener("input", draw);
  opacity.addEventListener("input", () => stage.style.setProperty("--opacity", Number(opacity.value) / 100));
  document.querySelectorAll("[name=layer]").forEach((choice) => {
    choice.addEventListener("change", () => {
      layer = choice.value;
      draw();
    });
  });
  window.addEventListener("resize", show);

  source.decode().then(() => {
    const hidden = document.createElement("canvas");
    hidden.width = overlay.width;
    hidden.height = overlay.height;
    const reading = hidden.getContext("2d", { willReadFrequently: true });
    reading.drawImage(source, 0, 0);
    const { data } = reading.getImageData(0, 0, hidden.width, hidden.height);
    levels = new Uint8Array(hidden.width * hidden.height);
    for (let pixel = 0; pixel < levels.length; pixel += 1) levels[pixel] = data[4 * pixel];
    draw();
  });
  show();
  draw();
})();
