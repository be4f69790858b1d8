// Requests to the server that this page came from. Addresses are relative, so the secret path of the page comes first.

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
    throw new RequestError("The program does not answer. If `tag2mask review` has ended, start it again, and open the address that it prints.");
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new RequestError(body.error || `The program answered ${answer.status}.`, answer.status);
  }
  return answer;
}

/** The address of an image of the list as a JPEG, `thumbnail` or `picture`; the browser caches it. */
export function jpeg(item, kind) {
  return `api/images/${item.index}/${kind}?of=${item.image_version}`;
}

/** An address with query parameters; undefined ones are left out. */
function withQuery(address, values) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined)).toString();
  return query ? `${address}?${query}` : address;
}

/** JSON from the server; `values` are query parameters. */
export async function get(address, values = {}) {
  return (await ask(withQuery(address, values))).json();
}

/** A map of bytes: {width, height, pixels}. */
export async function getMap(address) {
  const answer = await ask(address);
  const [width, height] = ["X-Width", "X-Height"].map((name) => Number(answer.headers.get(name)));
  const pixels = new Uint8Array(await answer.arrayBuffer());
  if (pixels.length !== width * height) throw new RequestError("The map is incomplete; try again.");
  return { width, height, pixels };
}

/** The picture of an image of the list; the error of the server where there is none. */
export async function getPicture(item) {
  const image = new Image();
  image.src = jpeg(item, "picture");
  try {
    await image.decode();
  } catch (error) {
    await ask(image.src); // an <img> does not say why
    throw error;
  }
  return image;
}

/** PUT bytes, or anything else as JSON; `values` are query parameters. */
export async function put(address, body, values = {}) {
  const raw = body instanceof Uint8Array;
  const headers = { "Content-Type": raw ? "application/octet-stream" : "application/json" };
  const options = { method: "PUT", headers, body: raw ? body : JSON.stringify(body) };
  return (await ask(withQuery(address, values), options)).json();
}
