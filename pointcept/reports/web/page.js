"use strict";
(() => {
  const root = document.documentElement, hint = document.getElementById("hint");
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  const show = (event, rows) => {
    hint.replaceChildren(...rows.map(text => Object.assign(document.createElement("div"), { textContent: text })));
    hint.style.display = "block";
    const box = hint.getBoundingClientRect();
    hint.style.left = Math.min(event.clientX + 14, innerWidth - box.width - 8) + "px";
    hint.style.top = Math.min(event.clientY + 14, innerHeight - box.height - 8) + "px";
  };
  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const data = JSON.parse(svg.dataset.chart), cursor = svg.querySelector(".cursor"), width = svg.viewBox.baseVal.width;
    const nearest = (points, x) => points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    svg.addEventListener("mousemove", event => {
      const box = svg.getBoundingClientRect(), across = (event.clientX - box.left) / box.width * width;
      const share = Math.max(0, Math.min(1, (across - data.left) / (data.right - data.left)));
      const wanted = data.x[0] + share * (data.x[1] - data.x[0]);
      const found = data.series.map(s => [s.name, nearest(s.points, wanted)]);
      const x = found.reduce((a, b) => Math.abs(b[1][0] - wanted) < Math.abs(a[1][0] - wanted) ? b : a)[1][0];
      const at = data.left + (x - data.x[0]) / (data.x[1] - data.x[0]) * (data.right - data.left);
      cursor.setAttribute("x1", at); cursor.setAttribute("x2", at); cursor.style.visibility = "visible";
      show(event, [`${data.unit} ${x}`, ...found.map(([name, p]) => `${name}: ${p[1]}${data.mark}`)]);
    });
    svg.addEventListener("mouseleave", () => { hint.style.display = "none"; cursor.style.visibility = "hidden"; });
  }
  for (const svg of document.querySelectorAll("svg.heat, figure.chart svg:not([data-chart])")) {
    svg.addEventListener("mousemove", event => {
      const title = event.target.querySelector && event.target.querySelector(":scope > title");
      if (title) show(event, [title.textContent]); else hint.style.display = "none";
    });
    svg.addEventListener("mouseleave", () => { hint.style.display = "none"; });
  }
})();
