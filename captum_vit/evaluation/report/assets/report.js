"use strict";

// The gallery: cases are chosen and sorted as numbers, one page of them is in the document, and a map is drawn when its
// place comes near the window. Texts become nodes by textContent only.

const PER_PAGE = 24;
const SVG = "http://www.w3.org/2000/svg";

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
const shades = (text) => Uint8Array.from(text.match(/../g), (each) => parseInt(each, 16));
const colours = { unsigned: shades(data.colours.unsigned), signed: shades(data.colours.signed) };

let chosen = [];
let page = 0;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// ---- which cases, in which order

function shownMethods() {
  return [...at("controls").querySelectorAll("[name=method]:checked")].map((each) => Number(each.value));
}

function scoreOf(item, methods, score) {
  const values = methods.map((each) => item.maps[each]?.scores[score]).filter((each) => typeof each === "number");
  return values.length ? values.reduce((sum, each) => sum + each, 0) / values.length : null;
}

function update() {
  const methods = at("judge").value === "" ? shownMethods() : [Number(at("judge").value)];
  const [score, wanted, direction] = [Number(at("score").value), at("class").value, Number(at("order").value)];
  const part = at("find").value.trim().toLowerCase();
  const limits = [at("from"), at("to")].map((each) => each.valueAsNumber);
  const bounded = limits.some((each) => !Number.isNaN(each));
  chosen = data.cases.map((item, index) => ({ item, index, value: scoreOf(item, methods, score) })).filter(
    ({ item, value }) =>
      (wanted === "" || item.class === Number(wanted)) &&
      (part === "" || data.samples[item.sample].id.toLowerCase().includes(part)) &&
      (!bounded || (value !== null && !(value < limits[0]) && !(value > limits[1]))),
  );
  const ascending = direction * (data.scores[score]?.better === -1 ? -1 : 1);
  const rank = (value) => (value === null ? Infinity : ascending * value); // without a value: at the end
  if (direction) chosen.sort((a, b) => rank(a.value) - rank(b.value) || a.index - b.index);
  show(0);
}

function nameOrders() {
  const better = data.scores[Number(at("score").value)]?.better;
  const [first, second] = better ? ["worst first", "best first"] : ["lowest first", "highest first"];
  at("order").options[1].textContent = first;
  at("order").options[2].textContent = second;
}

// ---- one page of them

function show(number) {
  const pages = Math.max(1, Math.ceil(chosen.length / PER_PAGE));
  page = Math.min(Math.max(number, 0), pages - 1);
  const methods = shownMethods();
  near.disconnect();
  const first = page * PER_PAGE;
  at("cards").start = first + 1;
  at("cards").replaceChildren(...chosen.slice(first, first + PER_PAGE).map(({ item }) => card(item, methods)));
  at("count").textContent = `${chosen.length} of ${data.cases.length} cases, page ${page + 1} of ${pages}`;
  at("page").textContent = `${page + 1} of ${pages}`;
  at("previous").disabled = page === 0;
  at("next").disabled = page === pages - 1;
  at("pages").hidden = pages === 1;
}

function card(item, methods) {
  const sample = data.samples[item.sample];
  const made = element("li");
  made.append(element("h3", data.classes[item.class]));
  made.append(element("p", item.asked === null ? sample.id : `${sample.id}, asked for ${item.asked}`));
  const tiles = element("div", undefined, { class: "tiles" });
  const path = item.mask && sample.size ? outline(item.mask, sample.size) : null;
  if (sample.image) tiles.append(tile("image", picture(sample, `Image ${sample.id}`), path, sample.size));
  for (const method of methods) tiles.append(mapTile(item, method, sample, path));
  made.append(tiles);
  return made;
}

function picture(sample, alt) {
  return element("img", undefined, { src: `data:image/jpeg;base64,${sample.image}`, alt });
}

function tile(caption, content, path, size) {
  const made = element("figure");
  const stack = element("div", undefined, { class: "stack" });
  stack.append(...[content].flat());
  if (path) stack.append(drawnOutline(path, size));
  made.append(stack, element("figcaption", caption));
  return made;
}

function mapTile(item, method, sample, path) {
  const { name, signed } = data.methods[method];
  const map = item.maps[method];
  const value = scoreOf(item, [method], Number(at("score").value));
  const caption = `${name}: ${value === null ? "–" : Number(value.toPrecision(3))}`;
  if (!map || map.blank || !map.values || !sample.image) {
    return tile(caption, element("p", map ? (map.blank ? `no map: ${map.blank}` : "no map kept") : "not asked"), null);
  }
  const label = `Map of ${name} for ${item.asked ?? data.classes[item.class]} on ${sample.id}, ${highest(map)}`;
  const canvas = element("canvas", undefined, { role: "img", "aria-label": label });
  [canvas.height, canvas.width] = sample.size;
  canvas.relevance = { map, signed };
  near.observe(canvas);
  return tile(caption, [picture(sample, ""), canvas], path, sample.size);
}

// ---- maps as colours

function levels({ values, low, high }, signed) {
  const largest = Math.max(Math.abs(low), Math.abs(high));
  const scaled = (level) => (low + ((high - low) * level) / 255) / largest / 2 + 0.5;
  return Float32Array.from(bytes(values), (level) => (signed ? (largest > 0 ? scaled(level) : 0.5) : level / 255));
}

function highest({ values, grid }) {
  const found = bytes(values);
  const place = found.indexOf(Math.max(...found));
  const third = (part, length, names) => names[Math.min(2, Math.floor((3 * (part + 0.5)) / length))];
  const row = third(Math.floor(place / grid[1]), grid[0], ["top", "middle", "bottom"]);
  return `highest at the ${row} ${third(place % grid[1], grid[1], ["left", "centre", "right"])}`;
}

// Where the pixels of a line lie between the patches, as in bilinear upsampling with align_corners=False.
function between(pixels, parts) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const place = Math.min(Math.max(((pixel + 0.5) * parts) / pixels - 0.5, 0), parts - 1);
    const first = Math.min(Math.floor(place), Math.max(parts - 2, 0));
    return [first, Math.min(first + 1, parts - 1), place - first];
  });
}

function paint(canvas) {
  const { map, signed } = canvas.relevance;
  const [palette, values] = [signed ? colours.signed : colours.unsigned, levels(map, signed)];
  const [rows, columns] = [between(canvas.height, map.grid[0]), between(canvas.width, map.grid[1])];
  const image = new ImageData(canvas.width, canvas.height);
  const last = palette.length / 3 - 1;
  let pixel = 0;
  for (const [top, bottom, down] of rows) {
    for (const [left, right, across] of columns) {
      const [above, below] = [top, bottom].map((row) => {
        const [a, b] = [values[row * map.grid[1] + left], values[row * map.grid[1] + right]];
        return a + (b - a) * across;
      });
      const shade = 3 * Math.round((above + (below - above) * down) * last);
      image.data[pixel++] = palette[shade];
      image.data[pixel++] = palette[shade + 1];
      image.data[pixel++] = palette[shade + 2];
      image.data[pixel++] = 255;
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      paint(target);
    }
  },
  { rootMargin: "400px" },
);

// ---- the outline of a mask: every side of a pixel on the object whose neighbour is not

function outline(runs, [rows, columns]) {
  const inside = new Uint8Array(rows * columns);
  let start = 0;
  runs.forEach((length, number) => {
    if (number % 2) inside.fill(1, start, start + length);
    start += length;
  });
  const on = (row, column) =>
    row >= 0 && row < rows && column >= 0 && column < columns ? inside[row * columns + column] : 0;
  let path = "";
  for (let row = 0; row <= rows; row++) {
    for (let column = 0; column <= columns; column++) {
      if (on(row, column) !== on(row - 1, column)) path += `M${column} ${row}h1`;
      if (on(row, column) !== on(row, column - 1)) path += `M${column} ${row}v1`;
    }
  }
  return path;
}

function drawnOutline(path, [rows, columns]) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  made.setAttribute("class", "mask");
  made.setAttribute("aria-hidden", "true");
  for (const name of ["under", "over"]) {
    const line = document.createElementNS(SVG, "path");
    line.setAttribute("d", path);
    line.setAttribute("class", name);
    made.append(line);
  }
  return made;
}

// ---- what the colours mean

function legend(name, low, high) {
  const made = element("span", undefined, { class: "bar" });
  const canvas = element("canvas", undefined, { "aria-hidden": "true", height: 1, width: colours[name].length / 3 });
  const image = new ImageData(canvas.width, 1);
  for (let k = 0; k < canvas.width; k++) image.data.set([...colours[name].slice(3 * k, 3 * k + 3), 255], 4 * k);
  canvas.getContext("2d").putImageData(image, 0, 0);
  made.append(low, canvas, high);
  return made;
}

function begin() {
  if (data.methods.some((each) => !each.signed)) at("legend").append(legend("unsigned", "lowest", "highest of a map"));
  if (data.methods.some((each) => each.signed)) at("legend").append(legend("signed", "against", "for"));
  const kept = data.samples.some((each) => each.image);
  for (const each of document.querySelectorAll(".maps")) each.hidden = !kept;
  at("controls").hidden = false;
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("controls").addEventListener("input", (event) => {
    if (event.target.id === "opacity" || event.target.id === "outline") return;
    if (event.target.id === "score") nameOrders();
    update();
  });
  at("opacity").addEventListener("input", () => {
    at("opacity-shown").textContent = `${at("opacity").value} %`;
    at("cards").style.setProperty("--opacity", at("opacity").value / 100);
  });
  at("outline").addEventListener("input", () => at("cards").classList.toggle("plain", !at("outline").checked));
  const turn = (step) => {
    show(page + step);
    const [used, other] = step > 0 ? [at("next"), at("previous")] : [at("previous"), at("next")];
    if (used.disabled) other.focus({ preventScroll: true }); // a disabled button loses the focus to nowhere
    at("count").scrollIntoView();
  };
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  nameOrders();
  update();
}

begin();
