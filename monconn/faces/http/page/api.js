/**
 * Calls of the HTTP API.
 */

const ROOT = new URL("api/v1/", document.baseURI);
/** A network that has vanished says nothing: without an answer for so long, the server is gone. */
const ANSWER_MILLISECONDS = 30_000;
/** How often something is asked once more, of a server that had no time and says when to. */
const MOST_TRIES = 5;
/** A longer Retry-After is not waited for: the user may want something else by then. */
const MOST_RETRY_SECONDS = 5;

/** What went wrong with a call: the problem details of the server (RFC 9457), or that it is gone. */
export class Problem extends Error {
  /**
   * @param {number} status 0 if the server could not be reached.
   * @param {string} title
   * @param {string} detail
   * @param {{name: string, detail: string, position?: number, text?: string}[]} errors Of bad arguments.
   * @param {number} [retryAfter] Seconds, if it may be asked again then.
   */
  constructor(status, title, detail, errors = [], retryAfter = 0) {
    super(detail || title);
    this.status = status;
    this.title = title;
    this.detail = detail;
    this.errors = errors;
    this.retryAfter = retryAfter;
  }

  /** Whether the server could not be reached at all. */
  get isGone() {
    return this.status === 0;
  }
}

/** @type {Set<() => void>} */
const onLoggedOut = new Set();

/**
 * Call a function whenever the server says that nobody is logged in.
 *
 * @param {() => void} listener
 */
export function whenLoggedOut(listener) {
  onLoggedOut.add(listener);
}

/**
 * A path of the API: each part is percent-encoded, so that `10.0.0.0/8` is one.
 *
 * @param {...(string | number)} parts
 * @returns {string}
 */
export function path(...parts) {
  return parts.map((part) => encodeURIComponent(part)).join("/");
}

/**
 * The address of a path of the API, for an `EventSource`.
 *
 * @param {string} path Relative to `/api/v1/`, such as `services`; a slash before it does no harm.
 * @param {Record<string, any>} [params] Undefined, null and "" are left out; lists are joined by commas.
 * @returns {string}
 */
export function address(path, params = {}) {
  const url = new URL(path.replace(/^\/+(api\/v1\/)?/, ""), ROOT);
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined && value !== null && value !== "") {
      url.searchParams.set(name, String(value));
    }
  }
  return url.href;
}

/**
 * @param {string} path As `address`.
 * @param {Record<string, any>} [params]
 * @param {{signal?: AbortSignal, milliseconds?: number}} [options] `milliseconds`: how long to wait
 *   for the answer. If the server has no time, it is asked again once it may have.
 * @returns {Promise<any>} The JSON of the answer.
 * @throws {Problem}
 */
export async function get(path, params, { signal, milliseconds = ANSWER_MILLISECONDS } = {}) {
  const patience = AbortSignal.timeout(milliseconds);
  const ended = signal === undefined ? patience : AbortSignal.any([signal, patience]);
  for (let tries = 1; ; tries += 1) {
    try {
      return await call("GET", address(path, params), undefined, ended);
    } catch (error) {
      const seconds = error instanceof Problem && error.status === 503 ? error.retryAfter : 0;
      if (!(seconds > 0 && seconds <= MOST_RETRY_SECONDS) || tries === MOST_TRIES) {
        throw error;
      }
      // Pages that were told so together do not ask together again.
      await passed(seconds * (1 + Math.random()) * 1000, ended);
    }
  }
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>} Fails as a call would, once the signal is aborted.
 */
function passed(milliseconds, signal) {
  return new Promise((done, fail) => {
    const giveUp = () => {
      clearTimeout(timer);
      fail(unreachable(signal.reason));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", giveUp);
      done();
    }, milliseconds);
    if (signal.aborted) {
      giveUp();
    } else {
      signal.addEventListener("abort", giveUp, { once: true });
    }
  });
}

/**
 * @param {string} path As `address`.
 * @param {Record<string, any>} [body]
 * @returns {Promise<any>} The JSON of the answer.
 * @throws {Problem}
 */
export function post(path, body = {}) {
  return call("POST", address(path), body);
}

/**
 * @param {string} path As `address`.
 * @param {Record<string, any>} [params]
 * @returns {Promise<any>} The JSON of the answer.
 * @throws {Problem}
 */
export function del(path, params) {
  return call("DELETE", address(path, params));
}

/**
 * @param {string} method
 * @param {string} url
 * @param {Record<string, any>} [body]
 * @param {AbortSignal} [signal]
 */
async function call(method, url, body, signal) {
  /** @type {Response} */
  let response;
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json, application/problem+json" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
  }
  try {
    response = await fetch(url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
    });
  } catch (error) {
    throw unreachable(error);
  }
  /** @type {any} */
  let answer = null;
  try {
    const text = await response.text();
    answer = text === "" ? null : JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) {
      throw unreachable(error);
    }
  }
  if (response.ok) {
    return answer;
  }
  if (response.status === 401) {
    for (const listener of onLoggedOut) {
      listener();
    }
  }
  throw new Problem(
    response.status,
    String(answer?.title ?? `The server answered ${response.status}`),
    String(answer?.detail ?? ""),
    Array.isArray(answer?.errors) ? answer.errors : [],
    Number(response.headers.get("Retry-After")) || 0,
  );
}

/** @param {unknown} error */
function unreachable(error) {
  if (error instanceof DOMException && error.name === "AbortError") {
    return error;
  }
  const isLate = error instanceof DOMException && error.name === "TimeoutError";
  return new Problem(0, isLate ? "The server does not answer" : "The server cannot be reached", "");
}
