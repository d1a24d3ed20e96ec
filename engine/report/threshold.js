"use strict";
// Thresholds that are dragged: what passes them, and the command that applies them.
// Texts of the run are hostile: they become text nodes, never markup.

const data = JSON.parse(document.getElementById("capfilt-data").textContent);
const byId = (id) => document.getElementById(id);
const AXES = ["itm", "itc"];
const at = { ...data.own };
const followers = [];

const moved = () => AXES.some((axis) => at[axis] !== data.own[axis]);
const grouped = (count) => count.toLocaleString("en-US");

/** For each part, how many pass the thresholds at which bin (row, column) begins. */
const passing = {};
for (const part of Object.keys(data.counts)) {
  const columns = data.edges.itc.length;
  const sums = data.counts[part].slice();
  for (let n = sums.length - 1; n >= 0; n--) {
    const right = (n + 1) % columns ? sums[n + 1] : 0;
    const below = n + columns < sums.length ? sums[n + columns] : 0;
    const both = (n + 1) % columns && n + columns < sums.length ? sums[n + columns + 1] : 0;
    sums[n] += right + below - both;
  }
  passing[part] = (rows, column) => sums[rows * columns + column];
}

function showReadout() {
  for (const part of Object.keys(passing)) {
    const cells = byId(`pass-${part}`).querySelectorAll("td");
    const all = passing[part](0, 0);
    const before = passing[part](data.own.itm, data.own.itc);
    const now = passing[part](at.itm, at.itc);
    const share = all ? ` of ${grouped(all)}` : "";
    const change = now - before;
    cells[0].textContent = grouped(before);
    cells[1].textContent = `${grouped(now)}${share}`;
    cells[2].textContent = change > 0 ? `+${grouped(change)}` : change < 0 ? `−${grouped(-change)}` : "–";
    cells[2].className = change > 0 ? "up" : change < 0 ? "down" : "quiet";
  }
}

function showCommand() {
  const parts = [...data.command, `--rule.itm_threshold ${data.edges.itm[at.itm]}`];
  if (limited()) parts.push(`--rule.itc_threshold ${data.edges.itc[at.itc]}`);
  byId("command").textContent = parts.join(" \\\n  ");
  byId("reset").hidden = !moved();
}

/** Whether the similarity is looked at: at its first edge everything passes. */
const limited = () => at.itc > 0;

function showLine(axis) {
  const off = axis === "itc" && !limited();
  const edge = data.edges[axis][at[axis]];
  const said = off ? "no limit" : edge.toFixed(2) == edge ? edge.toFixed(2) : String(edge);
  byId(`${axis}-value`).textContent = said;
  byId(axis).setAttribute("aria-valuetext", said);
  for (const bar of byId(axis).parentElement.querySelectorAll("rect")) {
    bar.classList.toggle("out", Number(bar.dataset.bin) < at[axis]);
  }
}

let waiting = 0;
function update() {
  AXES.forEach(showLine);
  showReadout();
  showCommand();
  // The cards follow once a frame at most, however fast the threshold is dragged.
  if (!waiting) {
    waiting = requestAnimationFrame(() => {
      waiting = 0;
      followers.forEach((follow) => follow());
    });
  }
}

for (const axis of AXES) {
  const slider = byId(axis);
  slider.disabled = false;
  slider.addEventListener("input", () => {
    const wanted = Number(slider.value) - 1e-9;
    const found = data.edges[axis].findIndex((edge) => edge >= wanted);
    at[axis] = found < 0 ? data.edges[axis].length - 1 : found;
    update();
  });
}
byId("reset").addEventListener("click", () => {
  for (const axis of AXES) {
    at[axis] = data.own[axis];
    byId(axis).value = data.edges[axis][at[axis]];
  }
  update();
  byId("itm").focus();
});
byId("readout").hidden = false;
update();
