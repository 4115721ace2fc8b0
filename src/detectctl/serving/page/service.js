// Asks the service that this page came from, below whichever prefix it lies.

export const BASE = new URL(".", location.href).href;
const SLOT = `detectctl-key ${location.pathname}`;

export class ServiceError extends Error {
  // `error` is as in the service's answers: code, message, why, hint.
  constructor(error, status, id) {
    super(error.message);
    Object.assign(this, { error, status, id });
  }
}

export const key = {
  get: () => sessionStorage.getItem(SLOT),
  set: (value) => sessionStorage.setItem(SLOT, value),
  forget: () => sessionStorage.removeItem(SLOT),
};

async function ask(path, query, body) {
  const url = new URL(path, BASE);
  url.search = new URLSearchParams(query);
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body) headers["Content-Type"] = "application/octet-stream";
  let answer;
  try {
    answer = await fetch(url, { method: body ? "POST" : "GET", headers, body, cache: "no-store", credentials: "same-origin" });
  } catch {
    const hint = "see whether it runs: `detectctl status`";
    throw new ServiceError({ code: "no_answer", message: "the service did not answer", why: "it stopped, or the connection broke", hint });
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  const other = { code: "not_understood", message: `the answer was ${answer.status} ${answer.statusText}`, why: "it is not one of the service's", hint: "look at what lies between this page and the service" };
  throw new ServiceError(error ?? other, answer.status, answer.headers.get("X-Request-ID"));
}

export const info = async () => (await ask("info", [])).json();

// The answer of `/detect`, with the service's own times and that of the whole in milliseconds.
export async function detect(picture, query) {
  const since = performance.now();
  const answer = picture.url ? await ask("detect", [["image_url", picture.url], ...query]) : await ask("detect", query, picture.blob);
  const found = await answer.json();
  const total = performance.now() - since;
  const stages = (answer.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g);
  return { found, stages: [...stages].map(([, name, ms]) => [name, Number(ms)]), total };
}

// The picture as the service sees it: upright, in a format that any browser shows. No object is surer than 1.
export async function shown(picture) {
  const query = [["conf", "1"], ["labels", "false"]];
  const answer = picture.url ? await ask("annotate", [["image_url", picture.url], ...query]) : await ask("annotate", query, picture.blob);
  return answer.blob();
}
