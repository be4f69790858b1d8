// Requests to the server that this page came from.

const token = document.querySelector("meta[name=token]").content;

/** What the server, or the way to it, says is wrong. */
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status; // 0: the server was not reached
  }
}

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Refused("The program does not answer; was `tag2mask review` ended? Start it again.");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Refused(said.error || `The program answered ${answer.status}.`, answer.status);
  }
  return answer;
}

const start = document.querySelector("meta[name=start]").content;

/** The address of an image as a JPEG, `thumbnail` or `picture`; the browser keeps it for this start alone. */
export function jpeg(index, kind) {
  return `/api/images/${index}/${kind}?of=${start}`;
}

/** What lies at an address, as JSON; `values` are the parameters, empty ones left out. */
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
  if (pixels.length !== width * height) throw new Refused("A map came incomplete; try again.");
  return { width, height, pixels };
}

/** Change something: bytes as they are, anything else as JSON. */
export async function put(address, body) {
  const raw = body instanceof Uint8Array;
  const headers = { "X-Review-Token": token, "Content-Type": raw ? "application/octet-stream" : "application/json" };
  return (await ask(address, { method: "PUT", headers, body: raw ? body : JSON.stringify(body) })).json();
}
