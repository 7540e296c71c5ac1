/** Speaks the app's interface with made-up answers, without a model and without a memory of its own beyond the process. */

import { createServer } from "node:http";
import { newId, Store } from "./store.mjs";

export const store = new Store();
let user = process.env.MOCK_LOGIN
  ? null
  : { id: "local", name: "local", is_admin: true, is_disabled: false, created_ms: 0 };
const users = [{ id: "local", name: "local", is_admin: true, is_disabled: false, created_ms: 0 }];
let prices = {
  date: "2026-01-01",
  currency: "USD",
  models: [{ name: "Some API", input: 0.5, cached_input: 0.1, output: 2 }],
  watts: 65,
  price_per_kwh: 0.3,
};

class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

function find(map, id) {
  const found = map.get(id);
  if (!found) throw new Refusal(404, "not_found", "There is no such thing, or it is not yours.");
  return found;
}

function listChats(query) {
  const isArchived = query.get("archived") === "1";
  const [word, folder] = [query.get("query")?.toLowerCase(), query.get("folder")];
  const all = [...store.chats.values()];
  let chats = all.filter((chat) => chat.is_archived === isArchived && (folder === null || chat.folder === folder));
  let hits;
  if (word) {
    const found = [...store.messages.values()].filter((message) => message.content.toLowerCase().includes(word));
    hits = found.map((message) => ({
      chat_id: message.chat_id,
      message_id: message.id,
      snippet: `…\u0002${word}\u0003…`,
    }));
    chats = chats.filter(
      (chat) => chat.title.toLowerCase().includes(word) || hits.some((hit) => hit.chat_id === chat.id),
    );
  }
  chats.sort((a, b) => b.is_pinned - a.is_pinned || b.updated_ms - a.updated_ms);
  const start = Number(query.get("before") ?? 0);
  const end = start + Number(query.get("limit") ?? 50);
  const folders = [...new Set(all.map((chat) => chat.folder).filter(Boolean))];
  return {
    chats: chats.slice(start, end),
    next: end < chats.length ? String(end) : null,
    folders,
    ...(hits ? { hits } : {}),
  };
}

function listMessages(chat, query) {
  const path = store.path(query.get("leaf") ?? chat.leaf_id);
  const before = query.get("before");
  const end = before ? path.findIndex((message) => message.id === before) : path.length;
  const start = Math.max(0, end - Number(query.get("limit") ?? 100));
  return { messages: path.slice(start, end), has_more: start > 0, n_path: path.length };
}

function send(
  chat,
  { parent_id = null, content = "", role = "user", tool_call_id = null, files = [], settings = {}, answer = true },
) {
  const infos = files.map((id) => find(store.files, id));
  const message = store.addMessage({
    chat_id: chat.id,
    parent_id,
    content,
    role,
    tool_call_id,
    files: infos,
    settings,
  });
  return { message, answer: answer ? store.answer(message, settings) : null };
}

function dashboard() {
  const now_ms = Date.now();
  const series = Array.from({ length: 360 }, (_, i) => ({
    t_ms: now_ms - (360 - i) * 10_000,
    n_running: i % 3,
    n_waiting: i % 2,
    tokens_per_s: 20 + 10 * Math.sin(i / 20),
    cache_hit_share: 0.6,
    cpu_share: 0.5 + 0.3 * Math.sin(i / 30),
    memory_bytes: 1.2e9,
  }));
  return {
    now_ms,
    series,
    models: [{ name: "mock:1b", is_open: true, n_running: 1, memory_bytes: 1.2e9 }],
    totals: { n_requests: 12, n_prompt: 9000, n_cached: 6000, n_completion: 4000 },
  };
}

const MODELS = [
  {
    name: "mock:1b",
    is_open: true,
    thinking: "choice",
    max_context: 4096,
    takes_images: false,
    has_auto: true,
    defaults: { temperature: 0.6, top_p: 0.95, top_k: 20 },
  },
  {
    name: "mock:plain",
    is_open: false,
    thinking: "none",
    max_context: null,
    takes_images: false,
    has_auto: false,
    defaults: null,
  },
];

/** [method, pattern, what answers it: (parameter, body, query) => JSON]. */
const ROUTES = [
  [
    "GET",
    "/me",
    () => ({
      user,
      needs_login: user === null,
      needs_setup: false,
      version: "mock",
      limits: { file_bytes: 26_214_400, message_chars: 400_000 },
    }),
  ],
  ["POST", "/login", (_, { name }) => ((user = { ...users[0], name }), { user })],
  ["POST", "/logout", () => void (user = null)],
  ["GET", "/users", () => ({ users })],
  [
    "POST",
    "/users",
    (_, { name, is_admin }) => (
      users.push({ id: newId(), name, is_admin, is_disabled: false, created_ms: Date.now() }),
      users.at(-1)
    ),
  ],
  [
    "PATCH",
    "/users/:id",
    (id, change) =>
      Object.assign(
        users.find((one) => one.id === id),
        change,
      ),
  ],
  [
    "DELETE",
    "/users/:id",
    (id) =>
      void users.splice(
        users.findIndex((one) => one.id === id),
        1,
      ),
  ],
  ["GET", "/keys", () => ({ keys: [] })],
  ["GET", "/models", () => ({ models: MODELS, default: "mock:1b" })],
  ["GET", "/chats", (_, __, query) => listChats(query)],
  ["POST", "/chats", (_, body) => store.addChat(body)],
  ["GET", "/chats/:id", (id) => find(store.chats, id)],
  ["PATCH", "/chats/:id", (id, change) => store.changeChat(find(store.chats, id), change)],
  ["DELETE", "/chats/:id", (id) => store.deleteChat(find(store.chats, id))],
  ["GET", "/chats/:id/messages", (id, _, query) => listMessages(find(store.chats, id), query)],
  ["POST", "/chats/:id/messages", (id, body) => send(find(store.chats, id), body)],
  [
    "POST",
    "/chats/:id/walk",
    (id, { message_id }) => ({
      leaf_id: store.changeChat(find(store.chats, id), { leaf_id: store.newestLeaf(message_id) }).leaf_id,
    }),
  ],
  [
    "POST",
    "/chats/:id/title",
    (id) => ({ title: store.changeChat(find(store.chats, id), { title: "Tea and its heat" }).title }),
  ],
  [
    "POST",
    "/messages/:id/regenerate",
    (id, { settings = {} }) => {
      const message = find(store.messages, id);
      const question = message.role === "assistant" ? find(store.messages, message.parent_id) : message;
      return { answer: store.answer(question, settings) };
    },
  ],
  [
    "POST",
    "/messages/:id/continue",
    (id) => {
      const answer = find(store.messages, id);
      answer.status = "writing";
      store.grow(answer, "", " and so it goes on for some more words.");
      return { answer };
    },
  ],
  [
    "POST",
    "/messages/:id/stop",
    (id) => {
      const message = find(store.messages, id);
      store.finish(message, "stopped");
      return { message };
    },
  ],
  ["DELETE", "/messages/:id", (id) => store.deleteMessage(find(store.messages, id))],
  ["DELETE", "/files/:id", (id) => void store.files.delete(id)],
  ["GET", "/presets", () => ({ presets: [...store.presets.values()] })],
  [
    "POST",
    "/presets",
    (_, body) => {
      const preset = { id: newId(), ...body };
      store.presets.set(preset.id, preset);
      return preset;
    },
  ],
  ["PATCH", "/presets/:id", (id, change) => Object.assign(find(store.presets, id), change)],
  ["DELETE", "/presets/:id", (id) => void store.presets.delete(id)],
  ["GET", "/preferences", () => store.preferences],
  ["PUT", "/preferences", (_, body) => (store.preferences = body)],
  ["GET", "/prices", () => prices],
  ["PUT", "/prices", (_, body) => (prices = body)],
  ["GET", "/dashboard", dashboard],
];

function match(pattern, path) {
  const found = new RegExp(`^${pattern.replace(":id", "([^/]+)")}$`).exec(path);
  return found && { parameter: found[1] };
}

/** Opens a stream of events and hands the function that writes to it to `use`. */
function stream(response, use) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  response.write(":\n\n");
  const beat = setInterval(() => response.write(":\n\n"), 15_000);
  const end = use((event, data) => {
    response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    if (event === "done") response.end();
  });
  response.on("close", () => {
    clearInterval(beat);
    end();
  });
}

function userEvents(response) {
  stream(response, (write) => {
    store.userStreams.add(write);
    write("hello", {});
    return () => store.userStreams.delete(write);
  });
}

function messageEvents(response, message) {
  stream(response, (write) => {
    const streams = store.messageStreams.get(message.id) ?? new Set();
    store.messageStreams.set(message.id, streams.add(write));
    write("state", message);
    if (message.status !== "writing") write("done", message);
    return () => streams.delete(write);
  });
}

async function upload(request) {
  const form = await new Response(request, { headers: { "Content-Type": request.headers["content-type"] } }).formData();
  const file = form.get("file");
  const text = await file.text();
  const info = {
    id: newId(),
    name: file.name,
    media_type: file.type,
    n_bytes: file.size,
    n_chars: Math.min(text.length, 400_000),
    note: text.length > 400_000 ? `Of ${text.length} characters the first 400,000 were kept.` : null,
  };
  store.files.set(info.id, info);
  return info;
}

async function readJson(request) {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text ? JSON.parse(text) : {};
}

async function answer(request, response) {
  const url = new URL(request.url, "http://localhost");
  const path = url.pathname.replace(/^\/app\/api/, "");
  if (request.method !== "GET" && request.headers["x-samovar-app"] !== "1")
    throw new Refusal(403, "csrf", "The header X-Samovar-App is missing.");
  if (user === null && !["/me", "/login", "/setup"].includes(path))
    throw new Refusal(401, "signed_out", "Log in first.");
  if (path === "/events") return userEvents(response);
  const events = match("/messages/:id/events", path);
  if (events) return messageEvents(response, find(store.messages, events.parameter));
  let result;
  if (request.method === "POST" && path === "/files") result = await upload(request);
  else {
    const route = ROUTES.find(([method, pattern]) => method === request.method && match(pattern, path));
    if (!route) throw new Refusal(404, "not_found", `The mock server has no ${request.method} ${path}.`);
    const body = request.method === "GET" ? {} : await readJson(request);
    result = route[2](match(route[1], path).parameter, body, url.searchParams);
  }
  response.writeHead(200, { "Content-Type": "application/json" });
  response.end(result === undefined ? "" : JSON.stringify(result));
}

export const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    response.writeHead(error.status ?? 500, { "Content-Type": "application/json" });
    response.end(JSON.stringify({ error: { code: error.code ?? "mock", message: error.message } }));
  });
});
