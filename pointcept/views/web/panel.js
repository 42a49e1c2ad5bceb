// What stands beside the points: scores, legend, errors, sources.

function element(tag, properties = {}, children = []) {
  const { dataset, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  Object.assign(node.dataset, dataset || {});
  node.append(...children);
  return node;
}

function swatch(colour) {
  const node = element("span", { className: "swatch" });
  node.style.background = colour;
  return node;
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

/** A row of a table that a click, Enter or space toggles, and a click with a key held down shows alone. */
function toggleRow(cells, hidden, toggle) {
  const row = element("tr", { className: hidden ? "off" : "", tabIndex: 0, title: "Click: show or hide. Shift-click: only this" }, cells);
  row.setAttribute("aria-pressed", String(!hidden));
  row.addEventListener("click", (event) => toggle(event.shiftKey || event.altKey || event.metaKey));
  row.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    toggle(event.shiftKey);
  });
  return row;
}

class Panel {
  /** viewer: holds the state and is told of changes, see viewer.js. */
  constructor(viewer) {
    this.viewer = viewer;
    this.$ = (id) => document.getElementById(id);
    this.$("all-classes").addEventListener("click", () => viewer.set({ hidden: [] }));
    this.$("no-classes").addEventListener("click", () => viewer.set({ hidden: DOCUMENT.classes.map((_, i) => i) }));
  }

  update(info, state) {
    this.scores(info);
    this.legend(info, state);
    this.errors(info, state);
    this.sources(info, state);
  }

  scores(info) {
    const names = Object.keys(info.scores);
    const cards = names.map((name) => this.card(percent(info.scores[name].miou), `${name} mIoU`, this.over(name, info)));
    if (names.length === 2) {
      const [first, last] = names.map((name) => info.scores[name].miou);
      const gap = first === null || last === null ? null : 100 * (last - first);
      cards.push(this.card(gap === null ? "–" : `${gap < 0 ? "−" : "+"}${Math.abs(gap).toFixed(1)}`, `${names[1]} − ${names[0]}`, ""));
    }
    this.$("scores").replaceChildren(...cards);
  }

  /** The score over all scans, where there are several. */
  over(name, info) {
    const total = DOCUMENT.total[name];
    const all = DOCUMENT.frames.length > 1 && total ? `mIoU over all ${DOCUMENT.frames.length} scans: ${percent(total.miou)} %\n` : "";
    return `${all}right points in this scan: ${percent(info.scores[name].accuracy)} %`;
  }

  card(value, label, title) {
    return element("div", { className: "card", title }, [element("b", { textContent: value }), element("span", { textContent: label })]);
  }

  legend(info, state) {
    const names = Object.keys(info.scores);
    const heads = ["", "points", ...names.map((name) => (names.length > 1 ? name : "IoU"))];
    this.$("legend").tHead.replaceChildren(element("tr", {}, heads.map((textContent) => element("th", { textContent }))));
    const counts = info.counts.filter((layer) => layer);
    const first = counts[0];
    const rows = DOCUMENT.classes.map((entry, i) => {
      if (!counts.some((layer) => layer[i] > 0)) return null;
      const name = element("td", { title: entry.name }, [swatch(entry.colour), entry.name]);
      const cells = [short(first[i]), ...names.map((layer) => percent(info.scores[layer].iou[i]))];
      const row = [name, ...cells.map((textContent) => element("td", { textContent }))];
      return toggleRow(row, state.hidden.includes(i), (alone) => this.viewer.set({ hidden: toggled(state.hidden, i, alone, DOCUMENT.classes.length) }));
    });
    const without = element("td", {}, [swatch(DOCUMENT.noClass), DOCUMENT.truth ? "unlabelled" : "no class"]);
    const rest = first ? info.points - first.reduce((a, b) => a + b, 0) : info.points;
    if (rest > 0) {
      const row = [without, element("td", { textContent: short(rest) }), ...names.map(() => element("td"))];
      rows.push(toggleRow(row, state.hidden.includes(NONE), (alone) => this.viewer.set({ hidden: alone ? DOCUMENT.classes.map((_, i) => i) : toggled(state.hidden, NONE, false, 0) })));
    }
    this.$("legend").tBodies[0].replaceChildren(...rows.filter((row) => row));
  }

  errors(info, state) {
    const found = DOCUMENT.difference;
    this.$("errors-section").hidden = !found || !info.codes.length;
    if (!found || !info.codes.length) return;
    this.$("errors-title").textContent = DOCUMENT.truth ? "Errors" : "Difference";
    const total = info.codes.reduce((a, b) => a + b, 0) || 1;
    const rows = found.labels.map((label, i) => {
      const colour = found.colours[i] || DOCUMENT.themes[state.theme].neutral;
      const cells = [element("td", {}, [swatch(colour), label]), element("td", { textContent: `${((100 * info.codes[i]) / total).toFixed(1)} %` })];
      return toggleRow(cells, state.hiddenCodes.includes(i), (alone) => this.viewer.set({ hiddenCodes: toggled(state.hiddenCodes, i, alone, found.labels.length), view: "difference" }));
    });
    this.$("errors").tBodies[0].replaceChildren(...rows);
  }

  sources(info, state) {
    this.$("sources-section").hidden = info.sources.length === 0;
    const rows = info.sources.map((name, i) => {
      const cells = [element("td", { title: name }, [swatch(DOCUMENT.sources[i % DOCUMENT.sources.length]), name])];
      return toggleRow(cells, state.hiddenSources.includes(i), (alone) =>
        this.viewer.set({ hiddenSources: toggled(state.hiddenSources, i, alone, info.sources.length), mode: "source" }));
    });
    this.$("sources").tBodies[0].replaceChildren(...rows);
  }
}

/** The hidden entries of `number` after entry i was toggled, or shown alone (all again, where it was so already). */
function toggled(hidden, i, alone, number) {
  if (!alone) return hidden.includes(i) ? hidden.filter((entry) => entry !== i) : [...hidden, i];
  const others = [...Array(number).keys(), NONE].filter((entry) => entry !== i);
  return others.every((entry) => hidden.includes(entry)) ? [] : others;
}
