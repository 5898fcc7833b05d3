"use strict";
(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);

  // Everything that comes from file names, class names or the model enters the page as text, never as markup.
  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // ---------------------------------------------------------------- maps: from the stored numbers to 0..1

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  /** Raw signed map: whole numbers, those above zero in units of m.up, those below in units of m.down. */
  function decode(m) {
    const raw = bytes(m.data);
    const whole = m.bits === 16 ? new Int16Array(raw.buffer) : new Int8Array(raw.buffer);
    return Float64Array.from(whole, (q) => q * (q > 0 ? m.up : m.down));
  }

  /** Bilinear, centres of pixels half a pixel in, edges held. */
  function axis(from, to) {
    const low = new Int32Array(to), high = new Int32Array(to), part = new Float64Array(to);
    for (let i = 0; i < to; i++) {
      const at = Math.max(((i + 0.5) * from) / to - 0.5, 0);
      low[i] = Math.min(Math.floor(at), from - 1);
      high[i] = Math.min(low[i] + 1, from - 1);
      part[i] = at - low[i];
    }
    return { low, high, part };
  }

  function resize(map, h, w, H, W) {
    const rows = axis(h, H), columns = axis(w, W), out = new Float64Array(H * W);
    for (let y = 0; y < H; y++) {
      const top = rows.low[y] * w, bottom = rows.high[y] * w, v = rows.part[y];
      for (let x = 0; x < W; x++) {
        const l = columns.low[x], r = columns.high[x], u = columns.part[x];
        const a = map[top + l] * (1 - u) + map[top + r] * u;
        const b = map[bottom + l] * (1 - u) + map[bottom + r] * u;
        out[y * W + x] = a * (1 - v) + b * v;
      }
    }
    return out;
  }

  /** Separable Gaussian, cut at four sigma, the border mirrored (d c b a | a b c d | d c b a). */
  function gaussian(map, H, W, sigma) {
    const radius = Math.ceil(4 * sigma);
    if (radius < 1) return map;
    const kernel = Float64Array.from({ length: 2 * radius + 1 }, (_, k) => Math.exp(-0.5 * ((k - radius) / sigma) ** 2));
    const sum = kernel.reduce((a, b) => a + b, 0);
    kernel.forEach((value, k) => { kernel[k] = value / sum; });
    const mirror = (i, n) => {
      const j = ((i % (2 * n)) + 2 * n) % (2 * n);
      return j < n ? j : 2 * n - 1 - j;
    };
    const pass = (source, n, lines, step, stride) => {
      const out = new Float64Array(source.length), padded = new Float64Array(n + 2 * radius);
      for (let line = 0; line < lines; line++) {
        for (let i = 0; i < padded.length; i++) padded[i] = source[line * stride + mirror(i - radius, n) * step];
        for (let i = 0; i < n; i++) {
          let total = 0;
          for (let k = 0; k < kernel.length; k++) total += kernel[k] * padded[i + k];
          out[line * stride + i * step] = total;
        }
      }
      return out;
    };
    return pass(pass(map, H, W, W, 1), W, H, 1, W);
  }

  /** Floor at the larger of zero and threshold x maximum, then stretch to 0..1; signed: magnitudes, to -1..1. */
  function stretch(map, threshold, signed) {
    let high = -Infinity;
    for (const value of map) high = Math.max(high, signed ? Math.abs(value) : value);
    const low = Math.max(threshold * high, 0), heat = new Float64Array(map.length);
    if (high > low) {
      map.forEach((value, i) => {
        heat[i] = (Math.max(signed ? Math.abs(value) : value, low) - low) / (high - low);
        if (signed && value < 0) heat[i] = -heat[i];
      });
    }
    return { heat, low: signed ? -high : low, high };
  }

  /** The hotter, the more opaque: where there is no heat the picture is untouched. A signed table has 255 colours. */
  function blend(target, picture, heat, table, alpha) {
    const signed = table.length === 765;
    for (let i = 0; i < heat.length; i++) {
      const entry = 3 * (signed ? 127 + Math.round(127 * heat[i]) : Math.round(heat[i] * 255));
      const strength = alpha * (1 - (1 - Math.abs(heat[i])) ** 2);
      for (let c = 0; c < 3; c++) {
        const below = picture[4 * i + c];
        target[4 * i + c] = below + strength * (table[entry + c] - below);
      }
      target[4 * i + 3] = 255;
    }
  }

  // ---------------------------------------------------------------- words

  const THUMB = 96;
  const tables = new Map(report.colormaps.map(([name, data]) => [name, bytes(data)]));
  const diverging = bytes(report.signed);
  const size = (shape) => shape.join(" × ");

  function short(name) {
    const letters = Array.from(name);
    return letters.length <= 26 ? name : [...letters.slice(0, 10), "…", ...letters.slice(-14)].join("");
  }

  function number(value) {
    if (value === 0) return "0";
    const text = Math.abs(value) >= 1e4 || Math.abs(value) < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
    return text.replace("e+", "e").replace(/-/g, "−");
  }

  /** Why there is nothing to colour, or null: [a word for the small picture, a sentence for the large one]. */
  function emptiness(m, layer) {
    if (!m) return ["no map", layer.note || "This layer carries no map: its output has no places to point at."];
    if (m.why === "nan") return ["NaN", "This map holds values that are not finite (NaN or infinite), so there is nothing to show."];
    if (m.up > 0 || (m.down > 0 && signed())) return null;
    if (m.down > 0) {
      return ["negative", "All of this map is negative or zero: at this layer it holds no evidence for the class, only against it."];
    }
    return ["zero", "This map is zero everywhere: at this layer it points at nothing in the picture."];
  }

  function place(heat, H, W) {
    let best = 0;
    heat.forEach((value, i) => { if (value > heat[best]) best = i; });
    const row = ["upper", "", "lower"][Math.min(2, Math.floor((3 * Math.floor(best / W)) / H))];
    const column = ["left", "", "right"][Math.min(2, Math.floor((3 * (best % W)) / W))];
    return [row, column].filter(Boolean).join(" ") || "centre";
  }

  // ---------------------------------------------------------------- state

  const images = report.images;
  const cache = new Map();
  const state = { image: 0, target: 0, layer: 0, ...report.display };

  const mapAt = (layer, image = state.image, target = state.target) => (images[image].maps[target] || [])[layer] || null;

  function values(layer, image = state.image, target = state.target) {
    const key = `${image} ${target} ${layer}`;
    if (!cache.has(key)) cache.set(key, decode(mapAt(layer, image, target)));
    return cache.get(key);
  }

  function deepest(image = state.image, target = state.target) {
    for (let layer = report.layers.length - 1; layer >= 0; layer--) {
      if (!emptiness(mapAt(layer, image, target), report.layers[layer])) return layer;
    }
    return report.layers.length - 1;
  }

  const signed = () => state.view === "signed";
  const colours = () => (signed() ? diverging : tables.get(state.colormap));

  let queued = false;
  function set(change) {
    Object.assign(state, change);
    if (!queued) {
      queued = true;
      requestAnimationFrame(() => { queued = false; draw(); });
    }
  }

  function chooseImage(image) {
    const label = images[state.image].classes[state.target];
    set({ image, target: Math.max(0, images[image].classes.indexOf(label)) });
  }

  const chooseLayer = (layer) => set({ layer: Math.min(Math.max(layer, 0), report.layers.length - 1) });

  // ---------------------------------------------------------------- drawing

  const view = $("view");
  const pen = view.getContext("2d", { willReadFrequently: true });
  const pictures = []; // per image: { large, small }, ImageData at the picture's size and at the strip's
  let shown = null; // what the pointer reads: the values at the picture's size

  function pixels(source, W, H) {
    const canvas = make("canvas", { width: W, height: H });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(source, 0, 0, W, H);
    return context.getImageData(0, 0, W, H);
  }

  function drawView() {
    const image = images[state.image], layer = report.layers[state.layer], m = mapAt(state.layer);
    const picture = pictures[state.image].large, { width: W, height: H } = picture;
    const label = image.classes[state.target] ?? "", empty = emptiness(m, layer);
    view.width = W;
    view.height = H;
    $("panel").classList.toggle("empty", Boolean(empty));
    $("message").hidden = !empty;
    $("scale").hidden = Boolean(empty);
    shown = null;
    if (empty) {
      pen.putImageData(picture, 0, 0);
      $("message").textContent = empty[1];
      view.setAttribute("aria-label", `${image.name}. ${empty[1]}`);
      return;
    }
    const map = gaussian(resize(values(state.layer), m.h, m.w, H, W), H, W, state.smoothing);
    const { heat, low, high } = stretch(map, state.threshold, signed());
    const out = new ImageData(W, H);
    blend(out.data, picture.data, heat, colours(), state.opacity);
    pen.putImageData(out, 0, 0);
    shown = { map, heat, W, H };
    $("scale-low").textContent = signed() ? `against ${number(low)}` : `≤ ${number(low)}`;
    $("scale-high").textContent = signed() ? `${number(high)} for` : number(high);
    let warm = 0;
    for (const value of heat) if (Math.abs(value) > 0.5) warm++;
    view.setAttribute("aria-label",
      `${report.method} map of ${label} at ${layer.name} over ${image.name}: strongest at the ${place(heat, H, W)}, ` +
      `above half strength in ${Math.round((100 * warm) / heat.length)} % of the picture`);
  }

  /** One small overlay: the picture, grey where there is no map. */
  function drawSmall(canvas, image, target, layer) {
    const picture = pictures[image].small, { width: W, height: H } = picture, m = mapAt(layer, image, target);
    const empty = emptiness(m, report.layers[layer]), out = new ImageData(new Uint8ClampedArray(picture.data), W, H);
    canvas.width = W;
    canvas.height = H;
    if (!empty) {
      const scale = W / pictures[image].large.width;
      const map = gaussian(resize(values(layer, image, target), m.h, m.w, H, W), H, W, state.smoothing * scale);
      blend(out.data, picture.data, stretch(map, state.threshold, signed()).heat, colours(), Math.max(state.opacity, 0.5));
    } else {
      for (let k = 0; k < out.data.length; k += 4) out.data.fill((out.data[k] + out.data[k + 1] + out.data[k + 2]) / 6, k, k + 3);
    }
    canvas.getContext("2d").putImageData(out, 0, 0);
    return empty;
  }

  function drawStrip() {
    report.layers.forEach((layer, i) => {
      const button = $("strip").children[i], empty = drawSmall(button.firstChild, state.image, state.target, i);
      button.classList.toggle("empty", Boolean(empty));
      button.querySelector(".why").textContent = empty ? empty[0] : "";
    });
  }

  // ---------------------------------------------------------------- contact sheet

  const cards = [];
  const best = (image) => image.predictions[0] || { label: image.classes[0] ?? "", probability: 0 };

  /** The pictures that the filter leaves, in the order chosen. */
  function listed() {
    const only = $("only").value, way = { most: -1, least: 1 }[$("sort").value] || 0;
    return images.map((_, i) => i).filter((i) => !only || best(images[i]).label === only)
      .sort((a, b) => way * (best(images[a]).probability - best(images[b]).probability) || a - b);
  }

  function drawSheet() {
    if (images.length < 2) return;
    images.forEach((_, i) => drawSmall(cards[i].querySelector("canvas"), i, 0, deepest(i, 0)));
  }

  function step(by) {
    const order = listed(), at = order.indexOf(state.image);
    if (order.length) chooseImage(order[at < 0 ? 0 : (at + by + order.length) % order.length]);
  }

  function buildSheet() {
    const sheet = images.length > 1;
    $("sheet-controls").hidden = !sheet;
    $("pictures-key").hidden = !sheet;
    $("pictures").classList.toggle("sheet", sheet);
    images.forEach((image, i) => {
      const said = image.predictions.length ? `${best(image).label}, ${best(image).percentage}` : "";
      const button = make("button", { type: "button", title: image.name },
        make("span", { class: "small" }, make("img", { src: image.source, alt: "", width: 36, height: 36 }),
          ...(sheet ? [make("canvas", { "aria-hidden": "true" })] : [])),
        make("bdi", {}, short(image.name)), ...(sheet && said ? [make("span", { class: "said quiet" }, said)] : []));
      button.addEventListener("click", () => chooseImage(i));
      cards.push(button);
    });
    for (const label of [...new Set(images.map((image) => best(image).label))].sort()) $("only").append(make("option", { value: label }, label));
    const arrange = () => $("pictures").replaceChildren(...listed().map((i) => cards[i]));
    $("sort").addEventListener("change", arrange);
    $("only").addEventListener("change", () => {
      arrange();
      if (!listed().includes(state.image)) step(1);
    });
    arrange();
  }

  function mark(nodes, chosen, attribute, on = "true", off = null) {
    [...nodes].forEach((node, i) => {
      if (i === chosen) node.setAttribute(attribute, on);
      else if (off === null) node.removeAttribute(attribute);
      else node.setAttribute(attribute, off);
    });
  }

  function drawClasses() {
    const image = images[state.image];
    $("classes").replaceChildren(...image.classes.map((label, i) => {
      const known = image.predictions.find((p) => p.label === label);
      const tab = make("button", { type: "button", role: "tab", id: `class-${i}`, "aria-controls": "panel" },
        make("bdi", {}, label), known ? make("span", { class: "number" }, known.percentage) : "");
      tab.addEventListener("click", () => set({ target: i }));
      return tab;
    }));
    $("used-section").hidden = !image.used;
    $("used").textContent = image.used;
    const dimmed = { src: image.whole, alt: "The whole photo, the unused part dimmed" };
    $("whole").replaceChildren(...(image.whole ? [make("img", dimmed)] : []));
    $("classes-key").hidden = image.classes.length < 2;
    $("last-class").textContent = String(Math.min(9, image.classes.length));
    $("predictions").parentElement.hidden = image.predictions.length === 0;
    $("predictions").replaceChildren(...image.predictions.map((p) => {
      const i = image.classes.indexOf(p.label);
      const fill = make("i", {});
      fill.style.width = `${100 * p.probability}%`;
      const inner = [make("bdi", {}, p.label), make("span", { class: "index quiet" }, String(p.index)),
        make("span", { class: "number" }, p.percentage), make("span", { class: "track", "aria-hidden": "true" }, fill)];
      if (i < 0) return make("li", {}, make("span", { class: "prediction" }, ...inner));
      const button = make("button", { type: "button", class: "prediction", title: "Show the map of this class" }, ...inner);
      button.addEventListener("click", () => set({ target: i }));
      return make("li", { "data-class": i }, button);
    }));
  }

  let drawn = {};
  function draw() {
    const image = images[state.image], layer = report.layers[state.layer], m = mapAt(state.layer);
    const changed = (...names) => names.some((name) => drawn[name] !== state[name]);

    if (changed("image")) {
      drawClasses();
      mark(cards, state.image, "aria-pressed", "true", "false");
    }
    if (changed("image", "target")) {
      const tabs = $("classes").children;
      mark(tabs, state.target, "aria-selected", "true", "false");
      mark(tabs, state.target, "tabindex", "0", "-1");
      if (tabs.length) $("panel").setAttribute("aria-labelledby", `class-${state.target}`);
      slide($("classes"), tabs[state.target]);
      for (const item of $("predictions").children) {
        const here = item.getAttribute("data-class") === String(state.target);
        if (here) item.setAttribute("aria-current", "true");
        else item.removeAttribute("aria-current");
      }
    }
    if (changed("image", "target", "layer")) {
      $("here-name").textContent = layer.name;
      const facts = [["layer_idx", layer.index === null ? "–" : String(layer.index)], ["type", layer.type], ["output", size(layer.shape)]];
      if (layer.grid) facts.push(["grid", `${size(layer.grid)}${layer.layout ? `, ${layer.layout}` : ""}`]);
      if (m && m.why !== "nan") facts.push(["range", `${number(m.min)} … ${number(m.max)}`]);
      $("here-facts").replaceChildren(...facts.filter(([, text]) => text).map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, text))));
      const flat = m && m.up > 0 && m.min === m.max ? "The map has the same value everywhere: it does not point at any place." : "";
      const note = m ? [layer.note, flat].filter(Boolean).join(" ") : "";
      $("here-note").textContent = note;
      $("here-note").hidden = !note;
      const said = image.evidence.find(([k, at]) => k === state.target && at === state.layer);
      $("here-evidence").textContent = said ? said[2] : "";
      $("here-evidence").hidden = !said;
      $("layer").value = String(state.layer);
      $("layer").setAttribute("aria-valuetext", `${layer.name}, ${state.layer + 1} of ${report.layers.length}`);
      mark($("strip").children, state.layer, "aria-current");
      mark($("rows").children, state.layer, "aria-current");
      slide($("strip"), $("strip").children[state.layer]);
    }
    for (const [id, text] of [["threshold", `${Number((100 * state.threshold).toFixed(1))} % of maximum`],
      ["smoothing", `${Number(state.smoothing.toFixed(1))} px`], ["opacity", `${Math.round(100 * state.opacity)} %`]]) {
      $(id).value = String(state[id]);
      $(`${id}-value`).textContent = text;
      $(id).setAttribute("aria-valuetext", text);
    }
    for (const input of document.querySelectorAll(".controls input, .ruler")) {
      const span = input.max - input.min;
      input.style.setProperty("--part", String(span > 0 ? (input.value - input.min) / span : 0));
    }
    if (changed("colormap", "view")) {
      $("scale-bar").style.backgroundImage = ramp(colours());
      $("scale-bar").setAttribute("aria-label", `colour bar from low to high, ${signed() ? "blue against, red for" : `colormap ${state.colormap}`}`);
      document.querySelector(`#views input[value="${state.view}"]`).checked = true;
      $("colormaps").disabled = signed();
      const input = document.querySelector(`#colormaps input[value="${CSS.escape(state.colormap)}"]`);
      if (input) input.checked = true;
    }
    drawView();
    if (changed("image", "target", "threshold", "smoothing", "opacity", "colormap", "view")) drawStrip();
    if (changed("threshold", "smoothing", "opacity", "colormap", "view")) drawSheet();
    if (drawn.layer !== undefined && changed("image", "target", "layer")) {
      $("announce").textContent = view.getAttribute("aria-label");
    }
    drawn = { ...state };
  }

  /** Scrolls a row sideways, and only sideways, until the chosen item is in sight. */
  function slide(box, item) {
    if (!item || box.scrollWidth <= box.clientWidth) return;
    const left = item.offsetLeft - box.offsetLeft;
    if (left < box.scrollLeft + 24 || left + item.offsetWidth > box.scrollLeft + box.clientWidth - 24) {
      box.scrollTo({ left: left - (box.clientWidth - item.offsetWidth) / 2, behavior: drawn.layer === undefined ? "instant" : "smooth" });
    }
  }

  function ramp(table) {
    const stops = Array.from({ length: 17 }, (_, i) => { const k = 3 * Math.min(table.length / 3 - 1, i * 16); return `rgb(${table[k]} ${table[k + 1]} ${table[k + 2]})`; });
    return `linear-gradient(to right, ${stops.join(", ")})`;
  }

  // ---------------------------------------------------------------- the page, once

  function build() {
    buildSheet();
    $("layer").max = String(report.layers.length - 1);
    document.querySelector(".depth").style.setProperty("--n", String(report.layers.length));
    $("strip").replaceChildren(...report.layers.map((layer, i) => {
      const index = layer.index === null ? "–" : String(layer.index);
      const button = make("button", { type: "button", tabindex: "-1", title: `${layer.name} · layer_idx ${index}` },
        make("canvas", { "aria-hidden": "true" }), make("span", { class: "why" }), make("span", { class: "number" }, layer.name === "(auto)" ? "auto" : index), make("bdi", { class: "named" }, layer.name));
      button.addEventListener("click", () => chooseLayer(i));
      return button;
    }));
    [...$("rows").children].forEach((row, i) => row.addEventListener("click", () => chooseLayer(i)));

    for (const [name, table] of tables) {
      const swatch = make("span", { class: "bar", "aria-hidden": "true" });
      swatch.style.backgroundImage = ramp(table);
      $("colormaps").append(make("label", { title: name }, make("input", { type: "radio", name: "colormap", value: name }), swatch, make("span", {}, name)));
    }

    $("layer").addEventListener("input", (event) => chooseLayer(Number(event.target.value)));
    for (const id of ["threshold", "smoothing", "opacity"]) {
      $(id).addEventListener("input", (event) => set({ [id]: Number(event.target.value) }));
    }
    $("colormaps").addEventListener("change", (event) => set({ colormap: event.target.value }));
    $("views").addEventListener("change", (event) => set({ view: event.target.value }));
    $("reset").addEventListener("click", () => set(report.display));

    $("classes").addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], n = images[state.image].classes.length;
      if (!step || !n) return;
      event.preventDefault();
      event.stopPropagation();
      const target = (state.target + step + n) % n;
      set({ target });
      $("classes").children[target].focus({ preventScroll: true });
    });

    document.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input:not(#layer), pre, select")) return;
      const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key], next = { p: -1, n: 1 }[event.key];
      if (along && event.target !== $("layer")) {
        event.preventDefault();
        chooseLayer(state.layer + along);
      } else if (next && images.length > 1) {
        step(next);
      } else if (/^[1-9]$/.test(event.key) && Number(event.key) <= images[state.image].classes.length) {
        set({ target: Number(event.key) - 1 });
      }
    });

    const resting = () => { $("probe").textContent = "Point at the picture for its values; hold to see it bare."; };
    resting();
    view.addEventListener("pointermove", (event) => {
      if (!shown) return;
      const box = view.getBoundingClientRect();
      const x = Math.min(shown.W - 1, Math.max(0, Math.floor(((event.clientX - box.left) * shown.W) / box.width)));
      const y = Math.min(shown.H - 1, Math.max(0, Math.floor(((event.clientY - box.top) * shown.H) / box.height)));
      $("probe").textContent = `x ${x}, y ${y}: map ${number(shown.map[y * shown.W + x])}, heat ${shown.heat[y * shown.W + x].toFixed(2)}`;
    });
    view.addEventListener("pointerleave", resting);
    view.addEventListener("pointerdown", () => pen.putImageData(pictures[state.image].large, 0, 0));
    for (const name of ["pointerup", "pointerleave", "pointercancel"]) view.addEventListener(name, () => set({}));

    for (const button of document.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", async () => {
        const text = $(button.dataset.copy).textContent;
        button.textContent = (await copy(text)) ? "Copied" : "Press Ctrl+C";
        setTimeout(() => { button.textContent = "Copy"; }, 1600);
      });
    }
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = make("textarea", { class: "unseen", readonly: "" }); // where the clipboard interface is closed to files
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  }

  // ---------------------------------------------------------------- light and dark

  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("grad-cam-theme"); } catch { /* storage may be closed to files */ }
  function theme() {
    const now = chosen || (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now;
    $("theme-word").textContent = now === "dark" ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", `Switch to ${now === "dark" ? "light" : "dark"} colours`);
  }
  dark.addEventListener("change", theme);
  $("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("grad-cam-theme", chosen); } catch { /* then it lasts as long as the page */ }
    theme();
  });

  theme();
  build();
  Promise.all(images.map(async (image, i) => {
    const source = new Image();
    source.src = image.source;
    await source.decode();
    const scale = Math.min(1, THUMB / Math.max(image.width, image.height));
    pictures[i] = {
      large: pixels(source, image.width, image.height),
      small: pixels(source, Math.max(1, Math.round(image.width * scale)), Math.max(1, Math.round(image.height * scale))),
    };
  })).then(() => {
    state.layer = deepest();
    draw();
    document.documentElement.dataset.ready = "true";
  });
})();
