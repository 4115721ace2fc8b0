// Draws objects over a picture, in the colours of annotated pictures.

const CROWD = 40; // objects; with more, captions are shown only of the one that is looked at
const KEYPOINT_SEEN = 0.5;
const SIDES = { left: "rgb(255 128 0)", right: "rgb(0 190 255)", middle: "rgb(90 230 60)" }; // of a person
const PERSON = [[15, 13], [13, 11], [16, 14], [14, 12], [11, 12], [5, 11], [6, 12], [5, 6], [5, 7], [6, 8], [7, 9], [8, 10], [1, 2], [0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6]]; // COCO's 17 keypoints

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// As `colour` in annotate.py: neighbours in the list of classes are far apart on the colour wheel.
function rgb(id) {
  const hue = (0.6 + id * 0.618034) % 1;
  const light = [0.5, 0.42, 0.62][id % 3];
  const chroma = 0.85 * Math.min(light, 1 - light);
  return [0, 8, 4].map((n) => {
    const k = (n + hue * 12) % 12;
    return Math.round(255 * (light - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

export const colour = (id) => `rgb(${rgb(id).join(" ")})`;

function ink(id) {
  const [r, g, b] = rgb(id).map((value) => (value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05) ** 2 > 1.05 * 0.05 ? "#000" : "#fff";
}

const ruler = document.createElement("canvas").getContext("2d");
ruler.font = "600 12px system-ui, sans-serif";

// Fills `overlay` for a picture that is shown `width` by `height` CSS pixels large; objects that are the `whole` picture
// have captions only.
export function draw(overlay, found, whole, width, height) {
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const scale = { x: width / found.image.width, y: height / found.image.height };
  const at = ([x, y]) => [x * scale.x, y * scale.y];
  const taken = []; // by captions: left, top, right
  const groups = found.objects.map((one, index) => {
    const group = svg("g", { class: "object", "data-index": index });
    const [left, top, right, bottom] = [...at(one.coordinates), ...at(one.coordinates.slice(2))];
    if (!whole) {
      const points = one.corners ? one.corners.map(at) : [[left, top], [right, top], [right, bottom], [left, bottom]];
      for (const [kind, line] of [["halo", 6], ["shape", 2.5]]) {
        const made = svg("polygon", { class: kind, points: points.join(" "), "stroke-width": line, "stroke-linejoin": "round" });
        if (kind === "shape") made.setAttribute("stroke", colour(one.class_id));
        group.append(made);
      }
      for (const polygon of one.mask ?? []) group.append(mask(polygon, one, at));
      if (one.keypoints) group.append(...joints(one, at, found.image));
    }
    const text = `${one.class} ${one.confidence.toFixed(2)}`;
    const wide = Math.min(ruler.measureText(text).width + 10, width);
    // A rotated box is far from the corners of the upright one.
    const start = one.corners ? one.corners.map(at).reduce((a, b) => (b[1] < a[1] ? b : a))[0] - wide / 2 : left - 1;
    const x = whole ? 8 : Math.max(0, Math.min(start, width - wide));
    const y = whole ? 8 + index * 22 : free([top - 18, top, bottom, bottom - 18], x, wide, height, taken);
    group.append(
      svg("g", { class: "tag" }, svg("rect", { x, y, width: wide, height: 18, fill: colour(one.class_id) }), svg("text", { x: x + 5, y: y + 13, fill: ink(one.class_id) }, text)),
    );
    return group;
  });
  overlay.classList.toggle("crowded", !whole && groups.length > CROWD);
  overlay.replaceChildren(...groups.toReversed()); // the surest on top
}

// The first of the places that is inside and of no other caption; the top of the box if there is none.
function free(places, x, wide, height, taken) {
  const inside = places.filter((y) => y >= 0 && y + 18 <= height);
  const apart = (y) => taken.every(([left, top, right]) => x >= right || x + wide <= left || Math.abs(y - top) >= 18);
  const y = inside.find(apart) ?? inside[0] ?? 0;
  taken.push([x, y, x + wide]);
  return y;
}

function mask(flat, one, at) {
  const points = [];
  for (let i = 0; i + 1 < flat.length; i += 2) points.push(at([flat[i], flat[i + 1]]));
  return svg("polygon", { class: "mask shape", points: points.join(" "), fill: colour(one.class_id), stroke: colour(one.class_id) });
}

function joints(one, at, { width, height }) {
  // A model that gives no confidence has learnt (0, 0) for a point that is not there; on the edge is as good as outside.
  const seen = one.keypoints.map(([x, y, confidence = 1]) => (confidence >= KEYPOINT_SEEN && x > 0 && y > 0 && x < width && y < height ? at([x, y]) : null));
  const person = seen.length === 17;
  const bones = person ? PERSON.filter(([a, b]) => seen[a] && seen[b]) : [];
  const lines = bones.map(([a, b]) => svg("line", { class: "joint", x1: seen[a][0], y1: seen[a][1], x2: seen[b][0], y2: seen[b][1], stroke: side(a, b), "stroke-width": 2 }));
  const dots = seen.map((point, n) => point && svg("circle", { class: "joint", cx: point[0], cy: point[1], r: 3.5, fill: person ? side(n) : colour(one.class_id), stroke: "#fff" }));
  return [...lines, ...dots.filter(Boolean)];
}

// COCO's keypoints are the nose, then left and right in turn.
function side(...points) {
  const sides = new Set(points.filter(Boolean).map((n) => (n % 2 ? "left" : "right")));
  return SIDES[sides.size === 1 ? [...sides][0] : "middle"];
}
