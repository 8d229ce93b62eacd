// The server's routes, and its problems (RFC 9457) as errors with one line for people.

const ROOT = new URL(".", document.baseURI);
const PATIENCE = 3; // further tries after a 429
const LONGEST_WAIT_SECONDS = 8;

export class Problem extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export const connection = new EventTarget(); // "lost" and "found"

async function problemOf(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  try {
    const body = await response.json();
    const message = typeof body.detail === "string" ? body.detail : body.title;
    return new Problem(response.status, message ?? `The server answered ${response.status}.`, retryAfter);
  } catch {
    return new Problem(response.status, `The server answered ${response.status}.`, retryAfter);
  }
}

async function once(path, { method = "GET", body, token, signal }) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { method, body, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connection.dispatchEvent(new Event("lost"));
    throw new Problem(0, "The server does not answer. Is it still running?");
  }
  connection.dispatchEvent(new Event("found"));
  if (!response.ok) throw await problemOf(response);
  return response.status === 204 ? null : response.json();
}

// One request; a busy server (429) is asked again after as long as it says. `onwait` hears of it.
export async function request(path, options = {}) {
  for (let left = options.patience ?? PATIENCE; ; left -= 1) {
    try {
      return await once(path, options);
    } catch (error) {
      if (error.status !== 429 || left <= 0) throw error;
      options.onwait?.();
      const wait = Math.min(error.retryAfter ?? 1, LONGEST_WAIT_SECONDS);
      await new Promise((resolve) => setTimeout(resolve, 1000 * wait));
    }
  }
}

export function form(fields) {
  const body = new FormData();
  for (const [name, value] of fields) {
    if (value instanceof File) body.append(name, value, value.name);
    else body.append(name, value);
  }
  return body;
}

export function address(path) {
  return new URL(path, ROOT).href;
}
