import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { subscribe, type Listener, type Subscription } from "./subscribe";

type Connection = { write: (text: string) => void; end: () => void; isAborted: () => boolean };

let connections: Connection[];
let statuses: number[];
let log: string[];
let open: Subscription | null;

const listener: Listener = {
  onEvent: ({ event, data }) => {
    log.push(`${event} ${data}`);
    return event === "done";
  },
  onOpen: () => log.push("open"),
  onLost: () => log.push("lost"),
  onRefused: (error) => log.push(`refused ${error.code}`),
};

function connect(_path: string, options: RequestInit): Promise<Response> {
  const status = statuses.shift() ?? 200;
  if (status !== 200) return Promise.resolve(new Response('{"error":{"code":"gone","message":"Gone."}}', { status }));
  let stream!: ReadableStreamDefaultController<Uint8Array>;
  const body = new ReadableStream<Uint8Array>({ start: (controller) => void (stream = controller) });
  options.signal?.addEventListener("abort", () => stream.error(new Error("aborted")));
  connections.push({
    write: (text) => stream.enqueue(new TextEncoder().encode(text)),
    end: () => stream.close(),
    isAborted: () => options.signal?.aborted === true,
  });
  return Promise.resolve(new Response(body));
}

function setVisible(isVisible: boolean): void {
  Object.defineProperty(document, "visibilityState", { value: isVisible ? "visible" : "hidden", configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

beforeEach(() => {
  [connections, statuses, log] = [[], [], []];
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  vi.stubGlobal("fetch", connect);
  open = subscribe("/events", listener);
});

afterEach(() => {
  open?.close();
  setVisible(true);
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test("a lost connection comes back after a short while", async () => {
  await pass(0);
  connections[0]?.write("event: a\ndata: 1\n\n");
  await vi.waitFor(() => expect(log).toContain("a 1"));
  connections[0]?.end();
  await vi.waitFor(() => expect(log.at(-1)).toBe("lost"));
  await pass(300);
  await vi.waitFor(() => expect(log).toEqual(["open", "a 1", "lost", "open"]));
});

test("a connection that falls silent is taken for dead, one that beats is not", async () => {
  await pass(0);
  for (let i = 0; i < 5; i++) {
    await pass(20_000);
    connections[0]?.write(":\n\n");
    await pass(0);
  }
  expect(log).toEqual(["open"]);
  await pass(60_000);
  await vi.waitFor(() => expect(log.slice(0, 3)).toEqual(["open", "lost", "open"]));
});

test("the listener's last event closes the stream for good", async () => {
  await pass(0);
  connections[0]?.write("event: done\ndata: 1\n\n");
  await vi.waitFor(() => expect(connections[0]?.isAborted()).toBe(true));
  await pass(60_000);
  expect(connections).toHaveLength(1);
  expect(log).toEqual(["open", "done 1"]);
});

test("a refusal is told and not tried again, a failing server is tried again", async () => {
  await pass(0);
  statuses = [503, 404];
  open?.restart();
  await pass(30_000);
  await vi.waitFor(() => expect(log.at(-1)).toBe("refused gone"));
  await pass(60_000);
  expect([connections.length, statuses.length]).toEqual([1, 0]);
});

test("a page that is hidden for some seconds lets go, and comes back when it is seen", async () => {
  await pass(0);
  setVisible(false);
  await pass(4000);
  expect(connections[0]?.isAborted()).toBe(false);
  await pass(2000);
  await vi.waitFor(() => expect(connections[0]?.isAborted()).toBe(true));
  await pass(600_000);
  expect(connections).toHaveLength(1);
  setVisible(true);
  await vi.waitFor(() => expect(log).toEqual(["open", "open"]));
});
