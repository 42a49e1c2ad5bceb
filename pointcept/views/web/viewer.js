// The state of the page, and what mouse, fingers and keys do to it.

const MODES = { class: 0, strength: 1, height: 2, source: 3, difference: 4 };
const RINGS = [10, 20, 30, 40, 50, 75, 100];
const KEYS = [
  ["drag", "orbit (one finger)"],
  ["right-drag, shift-drag", "move (two fingers)"],
  ["wheel, pinch", "zoom"],
  ["double click", "turn about this point"],
  ["1 2 3 4", "truth, predictions, errors"],
  ["A", "all side by side"],
  ["C", "colour: class, intensity, height"],
  ["E", "only what is wrong"],
  ["R  T", "3D view, view from above"],
  ["+ −", "point size"],
  ["G", "range rings"],
  ["L", "light or dark"],
  ["P", "legend"],
  ["space, ← →", "play, scan before and after"],
  ["?", "this list"],
];

class Viewer {
  constructor() {
    this.$ = (id) => document.getElementById(id);
    this.canvas = this.$("canvas");
    this.renderer = new Renderer(this.canvas);
    this.frames = new Frames();
    this.panel = new Panel(this);
    const [info] = DOCUMENT.frames;
    const reach = Math.min(60, Math.max(8, Math.max(...info.span) / 4));
    this.homes = {
      ahead: { target: [reach * 0.15, 0, info.ground], distance: reach * 0.95, azimuth: 0.15, elevation: 0.58 },
      top: { target: [0, 0, info.ground], distance: reach * 1.9, azimuth: 0, elevation: STEEPEST },
    };
    this.camera = new Camera(this.homes.ahead);
    this.state = {
      frame: 0, view: this.views().includes("student") ? "student" : this.views()[Math.max(0, this.views().length - 2)],
      mode: "class", hidden: [], hiddenCodes: [], hiddenSources: [], size: 1, shading: 1, rings: true, theme: DOCUMENT.theme, play: false,
    };
    if (this.views().length > 2 && window.innerWidth >= 860) this.state.view = "all";
    this.build();
    this.listen();
    this.set({});
    this.ready = this.show(0);
    let last = performance.now();
    const tick = (now) => {
      this.tick(now, now - last);
      last = now;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  /** What can be looked at: layers, then the difference. */
  views() {
    return [...DOCUMENT.layers, ...(DOCUMENT.difference ? ["difference"] : [])];
  }

  label(view) {
    return view === "difference" ? (DOCUMENT.truth ? "Errors" : "Difference") : view === "all" ? "Side by side" : capital(view);
  }

  build() {
    const views = this.views().length > 1 ? [...this.views(), "all"] : this.views();
    this.$("layers").append(...views.map((view) => element("button", { textContent: this.label(view), onclick: () => this.set({ view }), dataset: { view } })));
    const modes = ["class", "strength", "height", "source"].filter((mode) => this.has(mode));
    const title = { class: "Class", strength: "Intensity", height: "Height", source: "Scan" };
    this.$("modes").append(...modes.map((mode) => element("button", { textContent: title[mode], onclick: () => this.set({ mode }), dataset: { mode } })));
    this.modes = modes;
    this.$("keys").append(...KEYS.flatMap(([key, what]) => [element("dt", { textContent: key }), element("dd", { textContent: what })]));
    this.$("timeline").hidden = this.frames.length < 2;
    this.$("scrubber").max = this.frames.length - 1;
    document.body.classList.toggle("closed", window.innerWidth < 860);
  }

  has(mode) {
    if (mode === "strength") return DOCUMENT.frames.some((info) => info.strength);
    if (mode === "source") return DOCUMENT.frames.some((info) => info.sources.length);
    return mode === "height" || DOCUMENT.layers.length > 0;
  }

  /** Change the state; everything that depends on it follows. */
  set(changes) {
    Object.assign(this.state, changes);
    const { state } = this;
    for (const button of document.querySelectorAll("#layers button")) button.classList.toggle("on", button.dataset.view === state.view);
    for (const button of document.querySelectorAll("#modes button")) button.classList.toggle("on", button.dataset.mode === state.mode);
    for (const [id, key] of [["size", "size"], ["shading", "shading"]]) this.$(id).value = state[key];
    this.$("rings").checked = state.rings;
    this.$("light").checked = state.theme === "light";
    this.$("play").textContent = state.play ? "❚❚" : "▶";
    const theme = DOCUMENT.themes[state.theme];
    for (const name of ["paper", "panel", "text", "muted", "line"]) document.documentElement.style.setProperty(`--${name}`, theme[name]);
    this.renderer.setPalette(this.palette(theme));
    this.panel.update(DOCUMENT.frames[state.frame], state);
    this.dirty = true;
  }

  palette(theme) {
    const { state } = this;
    const rows = new Uint8Array(4 * 256 * 4);
    const put = (row, column, colour, hidden) => rows.set([...hexToRgb(colour), hidden ? 0 : 255], (row * 256 + column) * 4);
    DOCUMENT.classes.forEach((entry, i) => put(0, i, entry.colour, state.hidden.includes(i)));
    put(0, NONE, DOCUMENT.noClass, state.hidden.includes(NONE));
    const found = DOCUMENT.difference || { labels: [], colours: [] };
    found.labels.forEach((_, i) => put(1, i, found.colours[i] || theme.neutral, state.hiddenCodes.includes(i)));
    put(1, NONE, theme.line, state.hiddenCodes.includes(0));
    for (let i = 0; i < 256; i++) {
      put(2, i, DOCUMENT.sources[i % DOCUMENT.sources.length], state.hiddenSources.includes(i));
      const place = (i / 255) * (DOCUMENT.ramp.length - 1), first = Math.min(Math.floor(place), DOCUMENT.ramp.length - 2);
      const [a, b] = [hexToRgb(DOCUMENT.ramp[first]), hexToRgb(DOCUMENT.ramp[first + 1])];
      rows.set([...a.map((v, k) => Math.round(v + (b[k] - v) * (place - first))), 255], (3 * 256 + i) * 4);
    }
    return rows;
  }

  async show(index) {
    index = (index + this.frames.length) % this.frames.length;
    this.wanted = index;
    const frame = await this.frames.get(index);
    if (this.wanted !== index) return; // another one was asked for meanwhile
    this.frame = frame;
    this.renderer.load(frame, RINGS);
    this.set({ frame: index });
    const { info } = frame;
    this.$("title").textContent = info.name;
    this.$("title").title = info.name;
    this.$("facts").textContent = `${info.points.toLocaleString("en").replaceAll(",", " ")} points`;
    this.$("scrubber").value = index;
    this.$("position").textContent = `${index + 1} / ${this.frames.length}`;
    if (this.frames.length > 1) this.frames.get((index + 1) % this.frames.length);
  }

  /** The parts of the canvas, each with what it shows. */
  boxes() {
    const chosen = this.state.view === "all" ? this.views() : [this.state.view];
    const wide = this.canvas.clientWidth - (this.wide() ? 332 : 0);
    const columns = chosen.length === 1 ? 1 : wide > 2.2 * this.canvas.clientHeight || chosen.length === 2 ? chosen.length : 2;
    const rows = Math.ceil(chosen.length / columns);
    const share = wide / this.canvas.clientWidth;
    return chosen.map((view, i) => ({
      view, x: ((i % columns) / columns) * share, y: Math.floor(i / columns) / rows, width: share / columns, height: 1 / rows,
      layer: Math.max(0, DOCUMENT.layers.indexOf(view)), mode: view === "difference" ? MODES.difference : MODES[this.state.mode],
    }));
  }

  wide() {
    return !document.body.classList.contains("closed") && window.innerWidth >= 860;
  }

  tick(now, elapsed) {
    if (this.state.play && now - (this.shown || 0) > 200) {
      this.shown = now;
      this.show(this.state.frame + 1);
    }
    const moving = this.camera.step(elapsed);
    const shape = `${this.canvas.clientWidth} ${this.canvas.clientHeight}`;
    if (!this.frame || !(this.dirty || moving || shape !== this.shape)) return;
    // A machine that draws slowly draws with fewer pixels.
    this.slow = moving || this.dragging ? (this.slow || 0) * 0.9 + elapsed * 0.1 : 0;
    if (this.slow > 70 && this.renderer.sharp > 1) this.renderer.sharp = 1;
    this.shape = shape;
    this.dirty = false;
    const theme = DOCUMENT.themes[this.state.theme];
    const unit = (colour) => hexToRgb(colour).map((v) => v / 255);
    this.renderer.draw(this.camera, this.boxes(), { ...this.state, shading: this.state.shading * (this.state.theme === "light" ? 0.55 : 1), paper: unit(theme.paper), line: unit(theme.neutral) });
    this.captions();
  }

  /** Titles of the views and distances of the rings, over the points. */
  captions() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const boxes = this.boxes(), nodes = [];
    const below = this.$("bar").getBoundingClientRect().bottom + 8;
    for (const box of boxes) {
      const { matrix } = this.camera.matrix((box.width * width) / (box.height * height));
      if (this.state.rings) {
        for (const radius of RINGS.filter((r) => r <= this.camera.distance * 1.6)) {
          const at = project(matrix, [radius * 0.7071, -radius * 0.7071, this.frame.info.ground]);
          if (at && at.x > 0.02 && at.x < 0.98 && at.y > 0.1 && at.y < 0.96) nodes.push(this.at(element("div", { className: "ring", textContent: `${radius} m` }), (box.x + at.x * box.width) * width, (box.y + at.y * box.height) * height));
        }
      }
      if (boxes.length > 1) {
        const score = this.frame.info.scores[box.view];
        const caption = element("div", { className: "caption", textContent: this.label(box.view) });
        if (score) caption.append(element("em", { textContent: `${percent(score.miou)} % mIoU` }));
        nodes.push(this.at(caption, (box.x + box.width / 2) * width, box.y === 0 ? below : box.y * height + 12));
        if (box.x > 0) nodes.push(this.divider(box.x * width, box.y * height, 1, box.height * height));
        if (box.y > 0) nodes.push(this.divider(box.x * width, box.y * height, box.width * width, 1));
      }
    }
    this.$("overlay").replaceChildren(...nodes);
  }

  at(node, left, top) {
    Object.assign(node.style, { left: `${left}px`, top: `${top}px` });
    return node;
  }

  divider(left, top, width, height) {
    const node = this.at(element("div", { className: "divider" }), left, top);
    Object.assign(node.style, { width: `${width}px`, height: `${height}px` });
    return node;
  }

  /** The point under a place of the canvas [px], and the view there; null where there is none. */
  pick(x, y) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const box = this.boxes().find((b) => x >= b.x * width && x < (b.x + b.width) * width && y >= b.y * height && y < (b.y + b.height) * height);
    if (!box || !this.frame) return null;
    const [w, h] = [box.width * width, box.height * height];
    const { matrix: m } = this.camera.matrix(w / h);
    const { info, words, bytes } = this.frame;
    const s = info.span.map((v) => v / 65535);
    const row = (i) => [m[i] * s[0], m[4 + i] * s[1], m[8 + i] * s[2], m[i] * info.low[0] + m[4 + i] * info.low[1] + m[8 + i] * info.low[2] + m[12 + i]];
    const [cx, cy, cw] = [row(0), row(1), row(3)];
    const [px, py] = [x - box.x * width, y - box.y * height];
    let best = null, least = 81, depth = Infinity;
    for (let i = 0; i < info.points; i++) {
      const [a, b, c] = [words[i * 6], words[i * 6 + 1], words[i * 6 + 2]];
      const clip = cw[0] * a + cw[1] * b + cw[2] * c + cw[3];
      if (clip < 0.1) continue;
      const dx = (0.5 + (cx[0] * a + cx[1] * b + cx[2] * c + cx[3]) / clip / 2) * w - px;
      if (dx > 9 || dx < -9) continue;
      const dy = (0.5 - (cy[0] * a + cy[1] * b + cy[2] * c + cy[3]) / clip / 2) * h - py;
      const off = dx * dx + dy * dy;
      if (off > 81 || this.state.hidden.includes(bytes[i * BYTES + 8 + box.layer])) continue;
      // Near the pointer, and of those the one in front.
      if (off < least - 12 || (off < least + 12 && clip < depth)) [best, least, depth] = [i, off, clip];
    }
    return best === null ? null : { index: best, box };
  }

  tip(x, y) {
    const found = this.pick(x, y), tip = this.$("tip");
    tip.style.display = found ? "block" : "none";
    if (!found) return;
    const { bytes, info } = this.frame, at = found.index * BYTES, p = positionOf(this.frame, found.index);
    const line = (name, value, colour) => element("div", {}, [element("span", { textContent: name }), element("span", {}, colour ? [swatch(colour), value] : [value])]);
    const lines = DOCUMENT.layers.map((layer, i) => {
      const entry = DOCUMENT.classes[bytes[at + 8 + i]];
      return line(capital(layer), entry ? entry.name : "–", entry ? entry.colour : DOCUMENT.noClass);
    });
    lines.push(line("Range", `${Math.hypot(p[0], p[1]).toFixed(1)} m`), line("Height", `${(p[2] - info.ground).toFixed(2)} m`));
    if (info.strength) lines.push(line("Intensity", `${Math.round((bytes[at + 7] / 255) * 100)} %`));
    if (info.sources.length) lines.push(line("Scan", info.sources[bytes[at + 6]]));
    tip.replaceChildren(...lines);
    tip.style.left = `${Math.min(x + 16, this.canvas.clientWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(y + 16, this.canvas.clientHeight - tip.offsetHeight - 8)}px`;
  }

  listen() {
    this.canvas.addEventListener("webglcontextlost", () => complain("The graphics of this machine were reset. Load the page again."));
    const input = (id, event, change) => this.$(id).addEventListener(event, (e) => this.set(change(e.target)));
    input("size", "input", (t) => ({ size: Number(t.value) }));
    input("shading", "input", (t) => ({ shading: Number(t.value) }));
    input("rings", "change", (t) => ({ rings: t.checked }));
    input("light", "change", (t) => ({ theme: t.checked ? "light" : "dark" }));
    this.$("scrubber").addEventListener("input", (e) => this.show(Number(e.target.value)));
    this.$("play").addEventListener("click", () => this.set({ play: !this.state.play }));
    this.$("show-panel").addEventListener("click", () => this.togglePanel());
    this.$("show-help").addEventListener("click", () => this.$("help").classList.add("open"));
    this.$("help").addEventListener("click", () => this.$("help").classList.remove("open"));
    for (const button of document.querySelectorAll("[data-view]")) {
      if (this.homes[button.dataset.view]) button.addEventListener("click", () => this.look(button.dataset.view));
    }
    document.addEventListener("keydown", (event) => this.key(event));
    new Gestures(this);
  }

  look(home) {
    this.camera.go(this.homes[home]);
  }

  togglePanel() {
    document.body.classList.toggle("closed");
    this.dirty = true;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
    const { state } = this, views = this.views();
    const wrong = state.hiddenCodes.length ? [] : [0];
    const acts = {
      a: () => views.length > 1 && this.set({ view: "all" }),
      c: () => this.set({ mode: this.modes[(this.modes.indexOf(state.mode) + 1) % this.modes.length] }),
      e: () => DOCUMENT.difference && this.set({ view: "difference", hiddenCodes: wrong }),
      r: () => this.look("ahead"),
      t: () => this.look("top"),
      "+": () => this.set({ size: Math.min(4, state.size + 0.2) }),
      "=": () => this.set({ size: Math.min(4, state.size + 0.2) }),
      "-": () => this.set({ size: Math.max(0.3, state.size - 0.2) }),
      g: () => this.set({ rings: !state.rings }),
      l: () => this.set({ theme: state.theme === "light" ? "dark" : "light" }),
      p: () => this.togglePanel(),
      " ": () => this.frames.length > 1 && this.set({ play: !state.play }),
      arrowleft: () => this.show(state.frame - 1),
      arrowright: () => this.show(state.frame + 1),
      "?": () => this.$("help").classList.toggle("open"),
      escape: () => this.$("help").classList.remove("open"),
    };
    const key = event.key.toLowerCase();
    if (views[Number(key) - 1]) this.set({ view: views[Number(key) - 1] });
    else if (acts[key] && !(key === " " && event.target.tagName === "BUTTON")) acts[key]();
    else return;
    event.preventDefault();
  }
}

/** Mouse and fingers on the canvas. */
class Gestures {
  constructor(viewer) {
    this.viewer = viewer;
    this.fingers = new Map();
    const canvas = viewer.canvas;
    canvas.addEventListener("pointerdown", (e) => this.down(e));
    canvas.addEventListener("pointermove", (e) => this.move(e));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => this.up(e));
    canvas.addEventListener("pointerleave", () => (viewer.$("tip").style.display = "none"));
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
    canvas.addEventListener("dblclick", (e) => this.pivot(e));
  }

  down(event) {
    this.viewer.canvas.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.viewer.dragging = true;
    this.viewer.canvas.classList.add("dragging");
    this.viewer.$("tip").style.display = "none";
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    this.viewer.dragging = this.fingers.size > 0;
    if (!this.viewer.dragging) this.viewer.canvas.classList.remove("dragging");
  }

  move(event) {
    const { viewer } = this, { camera } = viewer;
    const before = this.fingers.get(event.pointerId), now = [event.offsetX, event.offsetY];
    if (!before) {
      if (event.pointerType === "mouse" && !this.asked) {
        this.asked = requestAnimationFrame(() => {
          this.asked = null;
          if (!viewer.dragging) viewer.tip(...now);
        });
      }
      return;
    }
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    const height = viewer.canvas.clientHeight * viewer.boxes()[0].height;
    if (this.fingers.size > 1) {
      const [other] = [...this.fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const distance = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      camera.zoom(distance(before) / distance(now));
      camera.pan(dx / 2, dy / 2, height);
    } else if (event.shiftKey || event.buttons & 6) camera.pan(dx, dy, height);
    else camera.orbit(dx, dy);
    this.fingers.set(event.pointerId, now);
    viewer.dirty = true;
  }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 18 : 1);
    this.viewer.camera.zoom(Math.exp(Math.max(-300, Math.min(300, pixels)) * 0.0014));
    this.viewer.dirty = true;
  }

  pivot(event) {
    const found = this.viewer.pick(event.offsetX, event.offsetY);
    if (found) this.viewer.camera.go({ target: positionOf(this.viewer.frame, found.index) });
  }
}

function complain(text) {
  document.getElementById("message").textContent = text;
  document.getElementById("message").classList.add("open");
}

let viewer = null;
if (typeof DecompressionStream === "undefined") complain("This browser is too old for this page.\nChrome or Edge 80, Firefox 113, Safari 16.4 or newer can show it.");
else {
  try {
    viewer = new Viewer();
    viewer.ready.catch((error) => complain(`The scan cannot be read: ${error.message}`));
  } catch (error) {
    if (error.message !== "WebGL 2") throw error;
    complain("This page draws with WebGL 2, which this browser does not have or has switched off.\nTry another browser, or switch hardware acceleration on.");
  }
}
