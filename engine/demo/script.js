"use strict";

const byId = (id) => document.getElementById(id);
const facts = document.body.dataset;
const LIMIT = Number(facts.limit);
const percent = (share, digits) => `${(100 * share).toFixed(digits)} %`;
let picture = null;

// Ask the demo; what goes wrong is an Error with one line for people.
async function ask(path, values, content, signal) {
  const request = { method: "POST", body: content, signal, headers: { "X-Demo-Token": facts.token } };
  let answer;
  try {
    answer = await fetch(`${path}?${new URLSearchParams(values)}`, request);
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("The demo does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const line = told.error || `the demo refused (${answer.status})`;
  throw new Error(line[0].toUpperCase() + line.slice(1) + (/[.!?]$/.test(line) ? "" : "."));
}

// A card that computes one thing at a time: a newer request ends what an older one waits for.
class Card {
  constructor(name) {
    this.card = byId(`${name}-card`);
    this.state = byId(`${name}-state`);
    this.waiting = null;
  }

  say(line, wrong = false) {
    this.state.textContent = line;
    this.state.classList.toggle("error", wrong);
  }

  stop() {
    if (this.waiting) this.waiting.abort();
    this.waiting = null;
    this.card.removeAttribute("aria-busy");
  }

  async run(doing, path, values, content, show) {
    this.stop();
    const mine = this.waiting = new AbortController();
    this.say(doing);
    this.card.setAttribute("aria-busy", "true");
    try {
      const found = await show(await ask(path, values, content, mine.signal), () => this.waiting === mine);
      if (this.waiting === mine) this.say(found || "");
    } catch (error) {
      if (this.waiting === mine) this.say(error.message, true);
    }
    if (this.waiting === mine) this.stop();
  }
}

const cards = {};
for (const name of ["picture", "captions", "match", "answer", "search"]) {
  if (byId(`${name}-card`)) cards[name] = new Card(name);
}

function listItem(...inside) {
  const item = document.createElement("li");
  item.append(...inside);
  return item;
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

// ---- the picture

function showPicture(content, alt) {
  if (byId("picture").src) URL.revokeObjectURL(byId("picture").src);
  byId("picture").src = URL.createObjectURL(content);
  byId("picture").alt = alt;
  byId("stage").hidden = false;
  byId("heat").hidden = true;
  byId("stage").classList.remove("mapped");
  byId("drop").classList.add("small");
  byId("drop").firstElementChild.textContent = "Drop another picture here";
}

function choosePicture(content, alt) {
  cards.picture.stop();
  if (content.size > LIMIT) {
    cards.picture.say(`This picture is larger than ${LIMIT / 1e6} MB.`, true);
    return;
  }
  picture = content;
  cards.picture.say("");
  showPicture(content, alt);
  for (const name of ["match", "answer"]) {
    if (cards[name]) {
      cards[name].stop();
      cards[name].say("");
      byId(name).hidden = true;
    }
  }
  if (cards.captions) caption();
  if (cards.match && byId("match-text").value.trim()) match();
}

// As wide as the card, or as high as leaves room for the rest.
byId("picture").addEventListener("load", () => {
  const { naturalWidth: width, naturalHeight: height } = byId("picture");
  byId("stage").style.aspectRatio = `${width} / ${height}`;
  byId("stage").style.width = `calc(min(56vh, 480px) * ${width / height})`;
});
byId("picture").addEventListener("error", () => {
  byId("stage").hidden = true;
  cards.picture.say("The browser cannot show this as a picture.", true);
});
byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) choosePicture(file, file.name);
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  choosePicture(file, "The picture that you pasted");
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragged");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragged");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragged");
  const [file] = event.dataTransfer.files;
  if (file) choosePicture(file, file.name);
  else cards.picture.say("That was no file: drop a picture file.", true);
});

// ---- captions

function caption() {
  const prompt = byId("captions-text").value;
  cards.captions.run("Captioning…", "/captions", { prompt }, picture, async (answer, current) => {
    const { best, samples } = await answer.json();
    if (!current()) return;
    byId("best").textContent = best || "(nothing)";
    byId("samples").replaceChildren(...samples.map((text) => listItem(text || "(nothing)")));
    byId("samples-part").hidden = !samples.length;
    byId("captions").hidden = false;
  });
}

// ---- matching and maps

function match() {
  const text = byId("match-text").value;
  cards.match.run("Matching…", "/match", { text }, picture, async (answer, current) => {
    const found = await answer.json();
    await byId("picture").decode().catch(() => {});
    if (!current()) return;
    byId("itm").textContent = percent(found.itm, 1);
    byId("itm-bar").value = found.itm;
    byId("itc").textContent = found.itc.toFixed(3).replace("-", "−");
    showMaps(found.words);
    byId("match").hidden = false;
  });
}

function showMaps(words) {
  const add = (one, other) => one.map((row, y) => row.map((value, x) => value + other[y][x]));
  const total = (map) => map.flat().reduce((sum, value) => sum + value, 0);
  const whole = words.map(({ map }) => map).reduce(add);
  const nothing = total(whole) === 0;
  const tiles = [{ word: "all words", map: whole }, ...words].map(({ word, map }, number) => {
    const [tile, heat, button] = [document.createElement("canvas"), heatOf(map), document.createElement("button")];
    if (byId("picture").naturalWidth) drawTile(tile, byId("picture"), heat);
    const share = number ? percent(total(map), 0) : nothing ? "looks nowhere" : "together";
    button.type = "button";
    button.append(tile, element("b", word), element("span", share));
    button.addEventListener("click", () => showMap(button, heat));
    return { button, heat };
  });
  byId("words").replaceChildren(...tiles.map(({ button }) => listItem(button)));
  showMap(tiles[0].button, tiles[0].heat);
}

// Lay a word's map over the picture; the same word again takes it off.
function showMap(button, heat) {
  const on = button.getAttribute("aria-pressed") !== "true";
  for (const other of byId("words").querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(on));
  byId("heat").hidden = !on;
  byId("stage").classList.toggle("mapped", on);
  byId("heat").width = byId("heat").height = heat.width;
  byId("heat").getContext("2d").drawImage(heat, 0, 0);
}

// ---- questions

function answer() {
  const text = byId("answer-text").value;
  cards.answer.run("Thinking…", "/answer", { text }, picture, async (reply, current) => {
    const found = await reply.json();
    if (!current()) return;
    byId("answer").textContent = found.answer || "(no answer)";
    byId("answer").hidden = false;
  });
}

// ---- search

function search() {
  const text = byId("search-text").value;
  cards.search.run("Searching…", "/search", { text }, null, async (answer, current) => {
    const { found, of } = await answer.json();
    if (!current()) return "";
    byId("found").replaceChildren(...found.map((one) => listItem(resultButton(one))));
    return `The nearest ${found.length} of ${of}, by cosine.`;
  });
}

function resultButton({ number, score, name, thumbnail }) {
  const button = document.createElement("button");
  const shown = document.createElement(thumbnail ? "img" : "i");
  if (thumbnail) {
    shown.src = thumbnail;
    shown.alt = "";
  }
  button.type = "button";
  button.title = name;
  button.append(shown, element("b", score.toFixed(3).replace("-", "−")), element("span", name));
  button.addEventListener("click", () => {
    cards.picture.run("Opening…", "/picture", { number }, null, async (answer, current) => {
      const content = await answer.blob();
      if (current()) choosePicture(content, name);
      byId("picture-card").scrollIntoView({ block: "nearest" });
    });
  });
  return button;
}

// ---- forms

function onSubmit(name, work, { needsPicture = true, needsText = true } = {}) {
  if (!cards[name]) return;
  byId(`${name}-form`).addEventListener("submit", (event) => {
    event.preventDefault();
    if (needsPicture && !picture) cards[name].say("Choose a picture first.", true);
    else if (needsText && !byId(`${name}-text`).value.trim()) cards[name].say("Write a text first.", true);
    else work();
  });
}

onSubmit("captions", caption, { needsText: false });
onSubmit("match", match);
onSubmit("answer", answer);
onSubmit("search", search, { needsPicture: false });
