// Sampled pictures with their texts: sorted, filtered, and judged anew as the thresholds move.

const PAGE = 60;
const [KEY, UID, SHARD, MORE, TEXTS, PICTURE] = [0, 1, 2, 3, 4, 5];
const [MADE, PIECES, ROW, COLUMN, MATCHING, SIMILARITY, KEPT, REASON] = [0, 1, 2, 3, 4, 5, 6, 7];
const WORDS = {
  matched: "kept",
  unmatched: "no match",
  dissimilar: "not similar",
  duplicate: "a duplicate",
  not_words: "no words",
  not_best_synthetic: "not the best",
  not_among_best: "not among the best",
  empty_caption: "empty",
};
// Dropped whatever the thresholds are.
const BY_TEXT = ["duplicate", "not_words"];
const inWords = (reason) => WORDS[reason] || reason.replaceAll("_", " ");

function element(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The reason for each text of a picture under the thresholds as they stand. */
function judge(texts) {
  if (!moved()) return texts.map((text) => data.reasons[text[REASON]]);
  const reasons = texts.map((text) => {
    const recorded = data.reasons[text[REASON]];
    if (text[ROW] < 0 || BY_TEXT.includes(recorded)) return recorded;
    if (text[ROW] < at.itm) return "unmatched";
    return text[COLUMN] < at.itc ? "dissimilar" : "matched";
  });
  const score = data.rule.rank_by === "itc" ? SIMILARITY : MATCHING;
  const limit = (count, among, verdict) => {
    if (count === null) return;
    const kept = [...texts.keys()].filter((n) => reasons[n] === "matched" && among(texts[n]));
    kept.sort((one, other) => texts[other][score] - texts[one][score]);
    for (const n of kept.slice(count)) reasons[n] = verdict;
  };
  limit(data.rule.best_synthetic, (text) => text[MADE], "not_best_synthetic");
  limit(data.rule.at_most, () => true, "not_among_best");
  return reasons;
}

const samples = data.pictures.map((picture, drawn) => {
  const texts = picture[TEXTS];
  const best = (made, score) =>
    Math.max(...texts.filter((t) => t[MADE] === made && t[ROW] >= 0).map((t) => t[score]));
  // Those that are not shown come last and have no pieces.
  const shown = texts.filter((text) => text[PIECES]);
  const words = shown.map((text) => text[PIECES].join(""));
  const found = [...words, picture[KEY], picture[UID]].join("\n").toLowerCase();
  return { picture, texts, shown, drawn, best, found, card: null };
});

const choice = (id) => byId(id).value;

function verdictOf(sample) {
  const reasons = judge(sample.texts);
  const kept = (made) => sample.texts.some((t, n) => t[MADE] === made && reasons[n] === "matched");
  const changed = sample.texts.some((t, n) => Boolean(t[KEPT]) !== (reasons[n] === "matched"));
  return { reasons, web: kept(0), made: kept(1), changed };
}

function wanted(sample) {
  const { reasons, web, made, changed } = verdictOf(sample);
  const verdict = choice("verdict");
  const kind = web ? (made ? "ws" : "w") : made ? "s" : "n";
  if (verdict && verdict !== (verdict === "c" ? (changed ? "c" : "") : kind)) return false;
  if (choice("reason") && !reasons.includes(choice("reason"))) return false;
  const words = choice("words").toLowerCase().split(/\s+/).filter(Boolean);
  return words.every((word) => sample.found.includes(word));
}

function place(sample) {
  const order = choice("order");
  if (order === "drawn") return null;
  const score = order.endsWith("2") ? MATCHING : SIMILARITY;
  if (order.startsWith("web")) return sample.best(0, score);
  if (order.startsWith("syn")) return sample.best(1, score);
  return sample.best(1, score) - sample.best(0, score);
}

let chosen = [];
let shown = 0;

function choose() {
  chosen = samples.filter(wanted);
  const direction = Number(choice("direction"));
  if (choice("order") !== "drawn") {
    const places = new Map(chosen.map((sample) => [sample, place(sample)]));
    // A picture without such a text comes last in either direction.
    const known = chosen.filter((sample) => Number.isFinite(places.get(sample)));
    const rest = chosen.filter((sample) => !Number.isFinite(places.get(sample)));
    known.sort((a, b) => direction * (places.get(a) - places.get(b)) || a.drawn - b.drawn);
    chosen = [...known, ...rest];
  } else if (direction > 0) {
    chosen.reverse();
  }
  byId("pairs").replaceChildren();
  shown = 0;
  showMore();
}

function showMore() {
  const next = chosen.slice(shown, shown + PAGE);
  shown += next.length;
  byId("pairs").append(...next.map((sample) => (sample.card = sample.card || card(sample))));
  next.forEach(follow);
  byId("more").hidden = shown >= chosen.length;
  const all = chosen.length === samples.length ? "" : ` of ${grouped(samples.length)}`;
  byId("count").textContent = chosen.length
    ? `${grouped(chosen.length)}${all} pictures${shown < chosen.length ? `, the first ${grouped(shown)} shown` : ""}`
    : "No picture is like that.";
}

const shownScore = (score) => (Math.floor(score / 100) / 100).toFixed(2);

function card(sample) {
  const { picture, shown } = sample;
  const made = element("li", "pair card");
  const frame = element("div", "frame");
  const name = picture[UID] ? `${picture[KEY]} · uid ${picture[UID]}` : picture[KEY];
  frame.title = `${name} · shard ${data.shards[picture[SHARD]]}`;
  if (picture[PICTURE]) {
    const image = element("img");
    image.alt = `picture ${picture[KEY]}`;
    image.decoding = "async";
    image.src = `data:image/webp;base64,${picture[PICTURE]}`;
    frame.append(image);
  } else {
    frame.append(element("span", "blank", `picture ${picture[KEY]}`));
  }
  const column = element("div", "texts");
  for (const text of shown) {
    const block = element("div", "text");
    const about = element("p", "about");
    about.append(element("span", `source ${text[MADE] ? "synthetic" : "web"}`, text[MADE] ? "synthetic" : "web"));
    about.append(element("span", "verdict"));
    if (text[ROW] >= 0) {
      const scores = element("span", "scores", `${shownScore(text[MATCHING])} · ${shownScore(text[SIMILARITY])}`);
      scores.title = "matching score · similarity";
      about.append(scores);
    }
    const words = element("p", "words");
    words.dir = "auto";
    text[PIECES].forEach((piece, n) => {
      if (piece) words.append(n % 2 ? element("mark", "", piece) : document.createTextNode(piece));
    });
    if (!words.hasChildNodes()) words.append(element("span", "quiet", "(empty)"));
    block.append(about, words);
    column.append(block);
  }
  if (picture[MORE]) column.append(element("p", "quiet rest"));
  made.append(frame, column);
  return made;
}

/** Show the verdicts of a card as the thresholds stand. */
function follow(sample) {
  const reasons = judge(sample.texts);
  sample.card.querySelectorAll(".text").forEach((block, n) => {
    const kept = reasons[n] === "matched";
    const changed = kept !== Boolean(sample.texts[n][KEPT]);
    block.className = `text ${kept ? "kept" : "dropped"}${changed ? " changed" : ""}`;
    const said = kept ? "✓ kept" : `✕ ${inWords(reasons[n])}`;
    block.querySelector(".verdict").textContent = changed ? `${said}, changed` : said;
  });
  const rest = sample.card.querySelector(".rest");
  if (!rest) return;
  const more = reasons.slice(sample.shown.length).filter((reason) => reason === "matched").length;
  const count = sample.picture[MORE];
  rest.textContent = `and ${grouped(count)} more text${count > 1 ? "s" : ""}, ${grouped(more)} of them kept`;
}

for (const reason of data.reasons) {
  const option = element("option", "", inWords(reason));
  option.value = reason;
  byId("reason").append(option);
}
// Moved thresholds may give reasons that the run did not.
for (const reason of ["unmatched", "dissimilar"]) {
  if (data.reasons.includes(reason)) continue;
  const option = element("option", "", inWords(reason));
  option.value = reason;
  byId("reason").append(option);
}
byId("controls").addEventListener("input", choose);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", showMore);
if ("IntersectionObserver" in window) {
  const near = new IntersectionObserver(
    (seen) => seen.some((one) => one.isIntersecting) && shown < chosen.length && showMore(),
    { rootMargin: "600px" },
  );
  near.observe(byId("more").parentElement);
}
followers.push(() => {
  // A filter by verdict is about the thresholds as they stand.
  if (choice("verdict") || choice("reason")) choose();
  else chosen.slice(0, shown).forEach(follow);
});
byId("controls").hidden = false;
choose();
