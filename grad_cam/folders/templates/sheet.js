"use strict";
// Only the cards that can be seen are in the page: ten thousand rows cost as much as a hundred.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const columns = data.columns, total = columns.path.length;
const at = (name, n) => (columns[name] ? columns[name][n] : null);
const labelled = (name, n) => { const k = at(name, n); return k === null || k === undefined ? null : data.words[k]; };
const numbers = (n) => Array.from({ length: n }, (_, i) => i);
const right = (n) => at("class_index", n) === null || at("class_index", n) === undefined || at("error", n) !== null
  ? null : at("class_index", n) === at("prediction_index", n);
const percent = (p) => p === null || p === undefined ? "" : p > 0 && p < 0.005 ? "< 1 %" : p < 1 && p >= 0.995 ? "> 99 %" : `${Math.round(100 * p)} %`;
const small = (v) => v === null || v === undefined ? null : Math.abs(v) >= 100 ? v.toFixed(0) : v.toPrecision(3);
const searched = numbers(total).map((n) =>
  [at("path", n), labelled("prediction", n), labelled("class", n), labelled("target", n)].join("\n").toLowerCase());
const picture = (n) => `sheet/${String(Math.floor(at("input", n) / 1000)).padStart(6, "0")}/${String(at("input", n)).padStart(9, "0")}-${at("number", n)}.jpg`;

let chosen = numbers(total), cards = new Map(), open = -1;

function options(id, name) {
  const counts = new Map();
  for (let n = 0; n < total; n++) { const word = labelled(name, n); if (word !== null) counts.set(word, (counts.get(word) || 0) + 1); }
  for (const word of [...counts.keys()].sort((a, b) => a.localeCompare(b))) {
    const option = new Option(`${word} (${counts.get(word)})`, word);
    $(id).add(option);
  }
  return counts.size;
}

const states = {
  map: (n) => at("error", n) === null, error: (n) => at("error", n) !== null,
  wrong: (n) => right(n) === false, right: (n) => right(n) === true,
  weak: (n) => Boolean(at("weakness", n)), note: (n) => Boolean(labelled("note", n)),
};

function choose() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), state = states[$("state").value];
  const only = ["prediction", "class", "layer"].map((name) => [name, $(name).value]).filter(([, value]) => value !== "");
  chosen = numbers(total).filter((n) => words.every((w) => searched[n].includes(w)) && (!state || state(n))
    && only.every(([name, value]) => labelled(name, n) === value));
  const [name, sign] = $("sort").value.split(":");
  if (name === "path") chosen.sort((a, b) => at("path", a).localeCompare(at("path", b), undefined, { numeric: true }));
  else if (name) {
    const value = (n) => { const v = at(name, n); return v === null || v === undefined ? Infinity : v * Number(sign); };
    chosen.sort((a, b) => value(a) - value(b) || a - b);
  }
  $("count").textContent = chosen.length === total ? `${total.toLocaleString("en")} rows` : `${chosen.length.toLocaleString("en")} of ${total.toLocaleString("en")} rows`;
  $("nothing").hidden = chosen.length > 0;
  draw(true);
}

function layout() {
  const width = $("grid").clientWidth, gap = 10, wanted = width < 560 ? 130 : 168;
  const across = Math.max(2, Math.floor((width + gap) / (wanted + gap)));
  const side = (width + gap) / across - gap;
  return { gap, across, side, high: side + 66 + gap };
}

function draw(anew) {
  const { gap, across, side, high } = layout(), grid = $("grid");
  grid.style.height = `${Math.ceil(chosen.length / across) * high}px`;
  const top = window.scrollY - grid.offsetTop;
  const first = Math.max(0, Math.floor(top / high) - 2) * across;
  const last = Math.min(chosen.length, (Math.ceil((top + window.innerHeight) / high) + 2) * across);
  if (anew) { for (const card of cards.values()) card.remove(); cards = new Map(); }
  for (const [i, card] of cards) if (i < first || i >= last) { card.remove(); cards.delete(i); }
  for (let i = first; i < last; i++) {
    if (cards.has(i)) continue;
    const card = made(chosen[i], side);
    card.style.left = `${(i % across) * (side + gap)}px`;
    card.style.top = `${Math.floor(i / across) * high}px`;
    card.style.width = `${side}px`;
    card.style.height = `${high - gap}px`;
    card.addEventListener("click", () => show(i));
    cards.set(i, card);
    const next = [...cards.keys()].filter((k) => k > i).sort((a, b) => a - b)[0];
    grid.insertBefore(card, next === undefined ? null : cards.get(next)); // the order of tabs is that of the eyes
  }
}

function element(tag, name, text) {
  const found = document.createElement(tag);
  if (name) found.className = name;
  if (text !== undefined) found.textContent = text;
  return found;
}

function made(n, side) {
  const card = element("button", "card"), error = at("error", n);
  card.type = "button";
  const view = element("span", error === null ? "strip" : "failed", error === null ? undefined : error);
  view.style.height = `${side}px`;
  if (error === null) view.style.backgroundImage = `url("${picture(n)}")`;
  const words = element("span", "words");
  const said = error === null ? `${labelled("prediction", n) ?? labelled("target", n)} ${percent(at("probability", n))}` : "failed";
  const line = element("span", right(n) === false ? "wrong" : "", said);
  const given = labelled("class", n);
  const under = error !== null ? "" : right(n) === false ? `given: ${given}` : labelled("target", n) === labelled("prediction", n) ? labelled("note", n) ?? "" : `map: ${labelled("target", n)}`;
  words.append(line, element("span", "name", under || "\u00a0"), element("span", "name", at("path", n).split("/").pop()));
  card.title = at("path", n);
  card.append(view, words);
  return card;
}

function show(i) {
  open = i;
  const n = chosen[i], error = at("error", n), facts = $("detail-facts");
  $("detail-title").textContent = at("path", n);
  $("detail-picture").hidden = error !== null;
  if (error === null) $("detail-picture").style.backgroundImage = `url("${picture(n)}")`;
  $("detail-picture").setAttribute("aria-label", `the picture, and the map of ${labelled("target", n)} over it`);
  facts.replaceChildren();
  const chance = (p) => (p === null || p === undefined ? "" : `, ${percent(p)}`);
  const rows = [
    ["Failed", error], ["Predicted", error === null ? `${labelled("prediction", n)}${chance(at("probability", n))}` : null],
    ["Given class", labelled("class", n)], ["Map of", error === null ? `${labelled("target", n)}${chance(at("target_probability", n))}` : null],
    ["Layer", labelled("layer", n)], ["Focus", small(at("focus", n))], ["Map", labelled("note", n)], ["Reading", at("remark", n)],
    ["Score", small(at("score", n))], ["without the marked part", small(at("without", n))],
    ["without a random part", small(at("random", n))],
    ["Evidence", at("beats", n) === null || at("beats", n) === undefined ? null : `the map beats ${Math.floor(100 * at("beats", n))} % of random maps`],
    ["Weak evidence", at("weakness", n)],
  ];
  for (const [name, value] of rows) if (value !== null && value !== undefined && value !== "") facts.append(element("dt", "", name), element("dd", "", value));
  $("before").disabled = i === 0;
  $("after").disabled = i === chosen.length - 1;
  if (!$("detail").open) $("detail").showModal();
}

const move = (step) => { if (open + step >= 0 && open + step < chosen.length) show(open + step); };
for (const id of ["sort", "state", "prediction", "class", "layer"]) $(id).addEventListener("change", choose);
let waiting = 0, framed = false;
$("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 80); });
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("plain").addEventListener("change", () => document.body.classList.toggle("plain", $("plain").checked));
$("all").addEventListener("click", () => { $("controls").reset(); choose(); });
$("before").addEventListener("click", () => move(-1));
$("after").addEventListener("click", () => move(1));
$("close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
$("detail").addEventListener("keydown", (event) => { if (event.key === "ArrowLeft") move(-1); if (event.key === "ArrowRight") move(1); });
addEventListener("scroll", () => { if (!framed) { framed = true; requestAnimationFrame(() => { framed = false; draw(false); }); } }, { passive: true });
addEventListener("resize", () => draw(true));

options("prediction", "prediction");
$("class-choice").hidden = options("class", "class") === 0;
$("layer-choice").hidden = options("layer", "layer") < 2;
const known = { beats: columns.beats, right: numbers(total).some((n) => right(n) !== null) };
for (const option of document.querySelectorAll("option[data-needs]")) if (!known[option.dataset.needs]) option.remove();
$("plain").checked = false;
choose();
