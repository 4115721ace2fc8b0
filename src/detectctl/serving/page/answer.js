// What can be known from an answer without asking again, and the request that would give the same.
//
// NMS goes from the most to the least confident box, class by class. So leaving out the less confident, or classes,
// changes nothing about the rest: filtering an answer is exact. Another overlap is not: a box that was dropped because
// of one that is now dropped itself would come back, and the answer does not have it. Nor are other classes, where the
// service has boxes of all of them suppress each other.

import { BASE, key } from "./service.js";

// A model that classifies gives its five best classes, whatever is asked.
export const whole = (model) => model.task === "classify";

// `wanted` and `asked`: conf, iou, classes, the names to keep, null for all, and whether NMS is agnostic of them.
export function suffices({ found, asked }, wanted) {
  if (whole(found.model)) return true;
  if (asked.iou !== wanted.iou || wanted.conf < asked.conf) return false;
  if (asked.classes && !wanted.classes?.every((name) => asked.classes.includes(name))) return false;
  if (wanted.agnostic && String(asked.classes) !== String(wanted.classes)) return false;
  // What was cut is less confident than all that was not. Without a filter, a new answer would be cut at the same place.
  return !found.truncated || !wanted.classes || String(asked.classes) === String(wanted.classes) || wanted.conf > found.objects.at(-1).confidence;
}

export function filtered({ found, asked }, { conf, classes }) {
  if (whole(found.model)) return found;
  // The service has compared with `asked.conf` before it rounded.
  const sure = ({ confidence }) => conf === asked.conf || confidence > conf;
  const objects = found.objects.filter((one) => sure(one) && (!classes || classes.includes(one.class)));
  const { truncated, ...rest } = found;
  const cut = truncated && sure(found.objects.at(-1)); // or what was cut is not sure enough either
  return { ...rest, status: objects.length ? "found" : "not found", objects, ...(cut && { truncated }) };
}

// Indented, with each list of numbers on one line.
export const json = (found) => JSON.stringify(found, null, 2).replace(/\[([\s\d.,e-]+)\]/g, (_, numbers) => `[${numbers.trim().replace(/\s+/g, " ")}]`);

export function query({ conf, iou, classes }) {
  return [["conf", String(conf)], ["iou", String(iou)], ...(classes ?? []).map((name) => ["class", name])];
}

const shell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const file = (name) => (name.startsWith("-") ? `./${name}` : name);

export function curl(picture, wanted) {
  const parts = ["curl -sS"];
  if (key.get()) parts.push('-H "Authorization: Bearer $API_KEY"');
  if (picture.url) {
    const given = [["image_url", picture.url], ...query(wanted)].map(([name, value]) => `--data-urlencode ${shell(`${name}=${value}`)}`);
    parts.push("-G", ...given, shell(`${BASE}detect`));
  } else {
    parts.push("-H 'Content-Type: application/octet-stream'", `--data-binary ${shell(`@${picture.name}`)}`);
    parts.push(shell(`${BASE}detect?${new URLSearchParams(query(wanted))}`));
  }
  return parts.join(" \\\n  ");
}

export function python(picture, { conf, iou, classes }) {
  const service = JSON.stringify(BASE.slice(0, -1));
  const source = JSON.stringify(picture.url ?? picture.name);
  const given = [`confidence=${conf}`, `iou=${iou}`];
  if (classes) given.push(`classes=(${classes.map((name) => `${JSON.stringify(name)},`).join(" ")})`);
  return [
    ...(key.get() ? ["import os", ""] : []),
    "from detectctl import Client, DetectOptions",
    "",
    `options = DetectOptions(${given.join(", ")})`,
    `with Client(${service}${key.get() ? ', api_key=os.environ["API_KEY"]' : ""}) as client:`,
    `    result = client.detect(${source}, options)`,
    "for found in result.detections:",
    "    print(found.class_name, found.confidence, found.xyxy)",
  ].join("\n");
}

export function detectctl(picture, { conf, iou, classes }) {
  const parts = [`detectctl detect --url ${shell(BASE.slice(0, -1))}`, `--conf ${conf} --iou ${iou}`];
  for (const name of classes ?? []) parts.push(`--class ${shell(name)}`);
  if (key.get()) parts.push("--api-key-file key.txt");
  parts.push("--format json", shell(picture.url ?? file(picture.name)));
  return parts.join(" \\\n  ");
}
