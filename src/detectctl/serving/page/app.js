// The page: brings pictures, asks about them, and keeps picture, list and sliders in step.

import * as answers from "./answer.js";
import { colour, draw, svg } from "./draw.js";
import * as service from "./service.js";

const LOW = 0.05; // asked for at first, so that the slider has something to show
const $ = (id) => document.getElementById(id);
const state = { info: null, pictures: [], current: null, left_out: new Set(), shown: null, tab: "json", camera: null, asking: false };

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const pair = (term, value, properties = {}) => element("div", {}, element("dt", { textContent: term }), element("dd", { textContent: value, ...properties }));

// --- the service -----------------------------------------------------------------------------------------------------

async function start() {
  try {
    state.info = await service.info();
  } catch (error) {
    fail(error);
    return;
  }
  const { defaults, limits } = state.info;
  $("key-form").hidden = true;
  $("key").value = "";
  $("forget").hidden = !service.key.get();
  $("conf").value = defaults.conf;
  $("iou").value = defaults.iou;
  $("url-form").hidden = !limits.url_input;
  model(state.info.model);
  sliders();
  fail(null);
  if (state.current) refresh();
}

function model(its) {
  const { engine, version } = state.info;
  $("model").replaceChildren(
    pair("Model", [its.name, its.version].filter(Boolean).join(" ")),
    pair("Digest", its.digest.slice(0, 19), { title: its.digest, className: "mono" }),
    pair("Task", its.task),
    pair("Engine", [engine.name, engine.device, engine.precision].filter(Boolean).join(" ")),
    pair("Service", version),
  );
  $("filter").hidden = answers.whole(its);
  const kind = its.fallback ? "fallback" : its.stale ? "stale" : null;
  const words = kind && `${kind}: ${[its.name, its.version].filter(Boolean).join(" ")}${its.reason ? ` (${its.reason})` : ""}`;
  $("warning").hidden = $("strip").hidden = !kind;
  $("warning").textContent = kind && `${words}. Asked for: ${its.reference}`;
  $("strip").textContent = words;
  $("strip").hidden = !kind || $("picture").hidden;
}

function fail(error) {
  if (!error) {
    $("error").replaceChildren();
    return;
  }
  if (!(error instanceof service.ServiceError)) throw error;
  const { code, message, why, hint } = error.error;
  if (error.status === 401) {
    const tried = service.key.get();
    service.key.forget();
    $("forget").hidden = true;
    $("key-form").hidden = false;
    $("key").focus();
    if (!tried) return;
  }
  const of = [code, error.status && `HTTP ${error.status}`, error.id && `request ${error.id}`].filter(Boolean).join(" · ");
  const lines = [why, hint].filter(Boolean).map((text) => element("div", { textContent: text }));
  const again = element("button", { type: "button", textContent: "Try again", onclick: () => refresh() });
  $("error").replaceChildren(element("strong", { textContent: message }), ...lines, element("span", { className: "mono", textContent: of }));
  if (state.current && error.status !== 401) $("error").append(again);
}

// --- pictures --------------------------------------------------------------------------------------------------------

function add(pictures) {
  if (!pictures.length) return;
  stop();
  state.pictures.push(...pictures);
  shelf();
  choose(pictures[0]);
}

const addFiles = (files) => add([...files].map((blob) => ({ name: blob.name || "pasted.png", blob })));
const addUrl = (url) => add([{ name: url, url }]);

function shelf() {
  $("shelf").hidden = state.pictures.length < 2;
  $("shelf").replaceChildren(
    ...state.pictures.map((one) => element("button", { type: "button", textContent: one.name, title: one.name, ariaCurrent: String(one === state.current), onclick: () => choose(one) })),
  );
}

function choose(picture) {
  state.current = picture;
  state.shown = null;
  $("summary").textContent = "None yet";
  for (const id of ["objects", "classes", "timing", "request"]) $(id).hidden = true;
  [...$("shelf").children].forEach((button, index) => (button.ariaCurrent = String(state.pictures[index] === picture)));
  overlay();
  $("picture").hidden = true;
  $("strip").hidden = true;
  $("empty").hidden = false;
  $("empty").textContent = picture.name;
  fail(picture.error ?? null);
  if (picture.source) place(picture);
  else if (picture.blob) show(picture, picture.blob);
  refresh();
}

function show(picture, blob) {
  if (picture.source) URL.revokeObjectURL(picture.source);
  picture.source = URL.createObjectURL(blob);
  if (picture === state.current) place(picture);
}

function place(picture) {
  $("picture").alt = `The picture ${picture.name}`;
  $("picture").src = picture.source;
}

$("picture").onload = () => {
  $("picture").hidden = false;
  $("empty").hidden = true;
  if (state.info) model(state.current.answer?.found.model ?? state.info.model);
  overlay();
};

$("picture").onerror = async () => {
  const picture = state.current; // of a format that this browser cannot show, or not a picture at all
  if (picture.revealed) return;
  picture.blank = true;
  if (picture.answer) await reveal(picture).catch(fail);
};

// Brings what the browser cannot get, or cannot show, from the service.
async function reveal(picture) {
  if (picture.revealed || !(picture.url || picture.blank)) return;
  picture.revealed = true;
  show(picture, await service.shown(picture));
}

// --- asking ----------------------------------------------------------------------------------------------------------

function wanted() {
  const known = names();
  const kept = known.filter((name) => !state.left_out.has(name));
  const classes = kept.length === known.length ? null : kept;
  return { conf: Number($("conf").value), iou: Number($("iou").value), classes, agnostic: state.info?.defaults.agnostic_nms };
}

const names = () => [...new Set(state.current?.answer?.all.map((one) => one.class))].sort();

// Shows what is wanted, and asks where the last answer does not suffice: one question at a time, the newest next.
async function refresh() {
  const picture = state.current;
  if (!picture?.url && !picture?.blob) return; // a webcam's first frame is still to come
  if (!state.info) {
    await start(); // it comes back here
    return;
  }
  const want = wanted();
  const enough = picture.answer && answers.suffices(picture.answer, want);
  if (enough) {
    results();
    return;
  }
  if (state.asking || (want.classes && !want.classes.length)) {
    if (picture.answer && !state.asking) results();
    return;
  }
  state.asking = true;
  $("stage").classList.add("busy");
  try {
    const { image_bytes } = state.info.limits;
    if (picture.blob?.size > image_bytes) {
      const why = `the service accepts up to ${image_bytes} bytes`;
      throw new service.ServiceError({ code: "image_too_large", message: `the picture has ${picture.blob.size} bytes`, why, hint: "make it smaller" });
    }
    const cut = picture.answer?.found.objects.length && want.iou === picture.answer.asked.iou && want.conf >= picture.answer.asked.conf;
    const asked = cut ? want : { conf: Math.min(LOW, want.conf), iou: want.iou, classes: null };
    const answer = await service.detect(picture, answers.query(asked));
    picture.answer = { ...answer, asked, all: asked.classes ? picture.answer.all : answer.found.objects };
    picture.error = null;
    await reveal(picture);
  } catch (error) {
    picture.error = error;
  } finally {
    state.asking = false;
    $("stage").classList.remove("busy");
  }
  if (picture !== state.current) {
    if (state.current) refresh();
    return;
  }
  fail(picture.error);
  if (picture.error) stop();
  else refresh();
}

// --- results ---------------------------------------------------------------------------------------------------------

function sliders() {
  $("conf-value").textContent = Number($("conf").value).toFixed(2);
  $("iou-value").textContent = Number($("iou").value).toFixed(2);
}

function results() {
  const { answer } = state.current;
  const want = wanted();
  state.shown = answers.filtered(answer, want);
  model(answer.found.model);
  classes(answer, want.conf);
  list();
  overlay();
  const stages = [...answer.stages.filter(([, ms]) => ms), ["round trip", answer.total]].map(([name, ms]) => [name === "infer" ? "inference" : name, ms]);
  $("timing").replaceChildren(...stages.map(([name, ms]) => pair(name, `${ms.toFixed(1)} ms`)));
  $("timing").hidden = false;
  $("request").hidden = false;
  code();
}

function classes({ all, asked }, conf) {
  const counts = new Map(names().map((name) => [name, 0]));
  for (const one of all) if (conf === asked.conf || one.confidence > conf) counts.set(one.class, counts.get(one.class) + 1);
  $("classes").hidden = counts.size < 2;
  const boxes = [...$("class-list").querySelectorAll("input")];
  const same = boxes.length === counts.size && boxes.every((box) => counts.has(box.value));
  if (!same) {
    $("class-list").replaceChildren(
      ...[...counts.keys()].map((name) => {
        const box = element("input", { type: "checkbox", value: name, checked: !state.left_out.has(name) });
        box.onchange = () => {
          state.left_out[box.checked ? "delete" : "add"](name);
          refresh();
        };
        return element("label", {}, box, element("span"));
      }),
    );
  }
  for (const label of $("class-list").children) label.lastChild.textContent = `${label.firstChild.value} ${counts.get(label.firstChild.value)}`;
}

function list() {
  const { objects, truncated } = state.shown;
  const counts = new Map();
  for (const one of objects) counts.set(one.class, (counts.get(one.class) ?? 0) + 1);
  const most = [...counts].sort((one, other) => other[1] - one[1]);
  const rest = most.splice(5).length; // the list has them all
  const words = most.map(([name, count]) => `${count} ${name}`).join(", ") + (rest ? `, and of ${rest} more classes` : "");
  const whole = answers.whole(state.shown.model);
  const many = whole ? `${objects[0]?.class}` : `${objects.length}: ${words}${truncated ? "; more were left out" : ""}`;
  const summary = objects.length ? many : "Nothing found at these settings";
  $("objects-title").textContent = whole ? "Classes" : "Objects";
  if ($("summary").textContent !== summary) $("summary").textContent = summary; // or it would be read out again
  const had = focused();
  $("objects").hidden = !objects.length;
  $("objects").replaceChildren(
    ...objects.map((one, index) => {
      const [left, top, right, bottom] = one.coordinates.map(Math.round);
      const size = whole ? "" : `${right - left}×${bottom - top}`;
      const row = element("div", { role: "option", tabIndex: index ? -1 : 0, ariaSelected: "false", title: `${left}, ${top} to ${right}, ${bottom}` });
      row.dataset.index = index;
      row.ariaLabel = `${one.class}, confidence ${one.confidence.toFixed(2)}, from ${left}, ${top} to ${right}, ${bottom}`;
      row.append(swatch(one.class_id), element("span", { textContent: one.class }), element("span", { className: "mono", textContent: one.confidence.toFixed(2) }), element("span", { className: "mono size", textContent: size }));
      return row;
    }),
  );
  if (had != null) $("objects").children[Math.min(had, objects.length - 1)]?.focus();
}

const swatch = (id) => svg("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" }, svg("rect", { width: 1, height: 1, fill: colour(id) }));

function overlay() {
  const [picture, over] = [$("picture"), $("overlay")];
  over.replaceChildren();
  over.classList.remove("dimmed");
  if (picture.hidden || !state.shown) return;
  const { left, top, width, height } = picture.getBoundingClientRect(); // fractions of a pixel, unlike its offsets
  const stage = $("stage").getBoundingClientRect();
  const [x, y] = [left - stage.left - $("stage").clientLeft, top - stage.top - $("stage").clientTop];
  Object.assign(over.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
  draw(over, state.shown, answers.whole(state.shown.model), width, height);
}

function light(index, { scroll = false } = {}) {
  for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
  for (const row of $("objects").children) row.ariaSelected = "false";
  $("overlay").classList.toggle("dimmed", index != null);
  if (index == null) return;
  for (const both of document.querySelectorAll(`[data-index="${index}"]`)) both.classList.add("lit");
  const row = $("objects").children[index];
  row.ariaSelected = "true";
  if (scroll) row.scrollIntoView({ block: "nearest" });
}

const indexOf = (event) => event.target.closest("[data-index]")?.dataset.index;
const focused = () => (document.activeElement?.parentElement === $("objects") ? document.activeElement.dataset.index : null);

$("objects").addEventListener("pointerover", (event) => indexOf(event) != null && light(indexOf(event)));
$("overlay").addEventListener("pointerover", (event) => light(indexOf(event) ?? null, { scroll: true }));
for (const id of ["objects", "overlay"]) $(id).addEventListener("pointerleave", () => light(focused()));
$("overlay").addEventListener("click", (event) => $("objects").children[indexOf(event)]?.focus());
$("objects").addEventListener("focusin", (event) => {
  for (const row of $("objects").children) row.tabIndex = row === event.target ? 0 : -1;
  light(indexOf(event));
});
$("objects").addEventListener("focusout", () => light(null));
$("objects").addEventListener("keydown", (event) => move(event, [...$("objects").children], { ArrowDown: 1, ArrowUp: -1 }));

// Arrow keys, Home and End among siblings of which one is a tab stop.
function move(event, siblings, steps) {
  const here = siblings.indexOf(document.activeElement);
  const to = { Home: 0, End: siblings.length - 1 }[event.key] ?? here + (steps[event.key] ?? NaN);
  if (here < 0 || !siblings[to]) return;
  event.preventDefault();
  siblings[to].focus();
}

// --- the same request ------------------------------------------------------------------------------------------------

const tabs = [...$("tabs").children];

function code() {
  const want = wanted();
  const made = { json: () => answers.json(state.shown), curl: answers.curl, python: answers.python, detectctl: answers.detectctl };
  const none = want.classes && !want.classes.length && state.tab !== "json";
  $("code").textContent = none ? "No class is chosen: there is nothing to ask for." : made[state.tab](state.current, want);
  for (const tab of tabs) {
    const selected = tab.id === `tab-${state.tab}`;
    tab.ariaSelected = String(selected);
    tab.tabIndex = selected ? 0 : -1;
    if (selected) $("code").setAttribute("aria-labelledby", tab.id);
  }
}

for (const tab of tabs) {
  tab.onclick = tab.onfocus = () => {
    state.tab = tab.id.slice(4);
    code();
  };
}
$("tabs").addEventListener("keydown", (event) => move(event, tabs, { ArrowRight: 1, ArrowLeft: -1 }));
$("copy").onclick = async () => {
  if (navigator.clipboard) await navigator.clipboard.writeText($("code").textContent);
  else getSelection().selectAllChildren($("code")); // plain HTTP from another machine: the browser has no clipboard for us
  $("copy").textContent = navigator.clipboard ? "Copied" : "Selected";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
};

// --- the webcam ------------------------------------------------------------------------------------------------------

function stop() {
  if (!state.camera) return;
  for (const track of state.camera.getTracks()) track.stop();
  state.camera = null;
  $("camera").textContent = "Use webcam";
}

async function film() {
  let camera;
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    fail(new service.ServiceError({ code: "no_webcam", message: "the webcam cannot be used", why: error.message, hint: "connect one, and allow this page to use it" }));
    return;
  }
  const video = element("video", { srcObject: camera, muted: true, playsInline: true });
  await video.play();
  const picture = { name: "webcam.jpg", blob: null };
  add([picture]);
  state.camera = camera;
  $("camera").textContent = "Stop webcam";
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  while (state.camera === camera && state.current === picture) {
    canvas.getContext("2d").drawImage(video, 0, 0);
    picture.blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
    picture.answer = null;
    show(picture, picture.blob);
    await refresh();
    await new Promise(requestAnimationFrame); // which a hidden tab does not get
  }
  if (state.camera === camera) stop();
}

if (!navigator.mediaDevices) {
  $("camera").disabled = true;
  $("camera").title = "Browsers lend the webcam only to localhost and https pages";
}
$("camera").onclick = () => (state.camera ? stop() : film());

// --- what people do --------------------------------------------------------------------------------------------------

$("files").onchange = (event) => {
  addFiles(event.target.files);
  event.target.value = "";
};
$("url-form").onsubmit = (event) => {
  event.preventDefault();
  addUrl($("url").value.trim());
};
$("key-form").onsubmit = async (event) => {
  event.preventDefault();
  service.key.set($("key").value.trim());
  await start();
};
$("forget").onclick = () => {
  service.key.forget();
  location.reload();
};
addEventListener("paste", (event) => {
  if (event.target.closest?.("input[type=url], input[type=password]")) return;
  const text = event.clipboardData.getData("text").trim();
  if (event.clipboardData.files.length) addFiles(event.clipboardData.files);
  else if (/^https?:\/\//.test(text)) addUrl(text);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("stage").classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget || $("stage").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  const url = event.dataTransfer.getData("text/uri-list").split(/\r?\n/)[0];
  if (event.dataTransfer.files.length) addFiles(event.dataTransfer.files);
  else if (url) addUrl(url);
});
for (const id of ["conf", "iou"]) {
  $(id).oninput = () => {
    sliders();
    refresh();
  };
}
new ResizeObserver(overlay).observe($("picture"));
start();
