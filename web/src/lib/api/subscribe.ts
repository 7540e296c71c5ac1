/** A subscription to a stream of the server that comes back by itself after a lost connection. */

import { ApiError, fetchApi } from "./request";
import { EventParser, type ServerEvent } from "./sse";

// The server sends a comment every 15 s: after three of them went missing the connection is dead.
const SILENCE_MS = 45_000;
const FIRST_WAIT_MS = 300;
const MAX_WAIT_MS = 10_000;
// A browser gives one server six connections for all its pages together: a page that nobody sees lets go of its own.
const HIDDEN_MS = 5_000;

export type Subscription = { close: () => void; restart: () => void };

export type Listener = {
  /** Returns true when this was the last event and the stream is to be closed. */
  onEvent: (event: ServerEvent) => boolean | undefined;
  onOpen?: () => void;
  /** The connection was lost; another try follows. */
  onLost?: () => void;
  /** The server refused (4xx): no other try follows. */
  onRefused?: (error: ApiError) => void;
};

/** The wait before try `n` (0 is the first after a loss): doubling up to ten seconds. */
export function waitMs(n: number): number {
  return Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** n);
}

/** Reads one connection to its end. Returns true when the listener said that it is over. */
async function readOnce(path: string, listener: Listener, abort: AbortController): Promise<boolean> {
  const response = await fetchApi(path, { signal: abort.signal, headers: { Accept: "text/event-stream" } });
  if (response.body === null) return false;
  listener.onOpen?.();
  const parser = new EventParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(watchdog));
    if (done) return false;
    for (const event of parser.push(value)) {
      if (listener.onEvent(event)) {
        abort.abort();
        return true;
      }
    }
  }
}

function isRefusal(error: unknown): error is ApiError {
  return error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429;
}

/**
 * Opens `path` and keeps it open until `close`, the listener's end, or a refusal; a hidden page pauses. `restart` asks for a fresh
 * connection.
 */
export function subscribe(path: string, listener: Listener): Subscription {
  let isClosed = false;
  let isPaused = false;
  let nTries = 0;
  let abort = new AbortController();
  let hiding: ReturnType<typeof setTimeout> | undefined;
  let wake: () => void = () => undefined;

  /** Waits for `wake`, and for `ms` at most. */
  const sleep = (ms?: number) =>
    new Promise<void>((resolve) => {
      const timer = ms === undefined ? undefined : setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  const restart = () => {
    nTries = 0;
    abort.abort();
    wake();
  };

  const onVisibility = () => {
    clearTimeout(hiding);
    if (document.visibilityState === "hidden") {
      hiding = setTimeout(() => {
        isPaused = true;
        abort.abort();
      }, HIDDEN_MS);
    } else if (isPaused) {
      isPaused = false;
      wake();
    }
  };

  const onOpen = () => {
    nTries = 0;
    listener.onOpen?.();
  };

  const run = async () => {
    while (!isClosed) {
      abort = new AbortController();
      try {
        if (await readOnce(path, { ...listener, onOpen }, abort)) break;
      } catch (error) {
        if (isRefusal(error)) {
          listener.onRefused?.(error);
          break;
        }
      }
      if (isClosed) break;
      if (isPaused) await sleep();
      else {
        listener.onLost?.();
        await sleep(waitMs(nTries++));
      }
    }
    clearTimeout(hiding);
    removeEventListener("online", restart);
    document.removeEventListener("visibilitychange", onVisibility);
  };

  addEventListener("online", restart);
  document.addEventListener("visibilitychange", onVisibility);
  void run();
  return {
    close: () => {
      isClosed = true;
      abort.abort();
      wake();
    },
    restart,
  };
}
