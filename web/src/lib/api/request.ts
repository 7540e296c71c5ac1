/** One request to `/app/api`: the headers it needs, and every way it can fail as an ApiError. */

export const API = "/app/api";

/** What the server refused, or `offline` with status 0 when it could not be reached. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
    this.name = "ApiError";
  }

  get isOffline(): boolean {
    return this.status === 0;
  }
}

type Listener = () => void;
const signedOut = new Set<Listener>();

/** Calls `listener` whenever the server answers 401. Returns what ends that. */
export function onSignedOut(listener: Listener): () => void {
  signedOut.add(listener);
  return () => signedOut.delete(listener);
}

/** The error that an answer of the server stands for. Its body may be of any kind. */
export function errorOf(status: number, body: string): ApiError {
  if (status === 401) for (const listener of signedOut) listener();
  try {
    const { error } = JSON.parse(body) as { error: { code: string; message: string } };
    return new ApiError(status, error.code, error.message);
  } catch {
    return new ApiError(status, "unreadable", `The server answered ${status} without saying why.`);
  }
}

/** Fetches and turns a failure into an ApiError; an abort by `signal` passes through as it is. */
export async function fetchApi(path: string, options: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(API + path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "offline", "The server cannot be reached.");
  }
  if (!response.ok) throw errorOf(response.status, await response.text().catch(() => ""));
  return response;
}

/** Sends `body` as JSON (a form as it is) and returns the answer's JSON, or undefined where there is none. */
export async function request<T>(method: string, path: string, body?: unknown): Promise<T> {
  const headers: Record<string, string> = {};
  if (method !== "GET") headers["X-Samovar-App"] = "1";
  let payload: BodyInit | null = null;
  if (body instanceof FormData) payload = body;
  else if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    payload = JSON.stringify(body);
  }
  const response = await fetchApi(path, { method, headers, body: payload });
  const text = await response.text();
  return (text === "" ? undefined : JSON.parse(text)) as T;
}

/** `?a=1&b=2` of the values that are there. */
export function queryString(values: Record<string, string | number | boolean | undefined>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined) query.set(name, typeof value === "boolean" ? (value ? "1" : "0") : String(value));
  }
  const text = query.toString();
  return text === "" ? "" : `?${text}`;
}
