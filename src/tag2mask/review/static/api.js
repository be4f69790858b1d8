// Requests to the server that this page came from.

const token = document.querySelector("meta[name=token]").content;

/** An error answer of the server, or a failed request. */
export class RequestError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status; // 0: no connection
  }
}

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new RequestError("The program does not answer. If `tag2mask review` has ended, start it again.");
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new RequestError(body.error || `The program answered ${answer.status}.`, answer.status);
  }
  return answer;
}

const start = document.querySelector("meta[name=start]").content;

/** The address of an image as a JPEG, `thumbnail` or `picture`; the browser caches it for this start of the server. */
export function jpeg(index, kind) {
  return `/api/images/${index}/${kind}?of=${start}`;
}

/** JSON from the server; `values` are query parameters, empty ones are left out. */
export async function get(address, values = {}) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(given).toString();
  return (await ask(query ? `${address}?${query}` : address)).json();
}

/** A map of bytes: {width, height, pixels}. */
export async function getMap(address) {
  const answer = await ask(address);
  const [width, height] = ["X-Width", "X-Height"].map((name) => Number(answer.headers.get(name)));
  const pixels = new Uint8Array(await answer.arrayBuffer());
  if (pixels.length !== width * height) throw new RequestError("The map is incomplete; try again.");
  return { width, height, pixels };
}

/** PUT bytes, or anything else as JSON. */
export async function put(address, body) {
  const raw = body instanceof Uint8Array;
  const headers = { "X-Review-Token": token, "Content-Type": raw ? "application/octet-stream" : "application/json" };
  return (await ask(address, { method: "PUT", headers, body: raw ? body : JSON.stringify(body) })).json();
}
