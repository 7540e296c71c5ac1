/** Where in the app the page is, as its address says behind the `#`. */

export type Route =
  { view: "chat"; chatId: string | null; messageId: string | null } | { view: "dashboard" | "admin" | "settings" };

/** `#/c/CHAT`, `#/c/CHAT?m=MESSAGE` (shown at that message), `#/dashboard`, `#/admin`, `#/settings`; all else is a new chat. */
export function parseHash(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view, chatId] = path.split("/").map(decode);
  if (view === "dashboard" || view === "admin" || view === "settings") return { view };
  if (view !== "c" || !chatId) return { view: "chat", chatId: null, messageId: null };
  return { view: "chat", chatId, messageId: new URLSearchParams(query).get("m") };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function chatHash(chatId: string, messageId?: string | null): string {
  const query = messageId ? `?m=${encodeURIComponent(messageId)}` : "";
  return `#/c/${encodeURIComponent(chatId)}${query}`;
}

class Router {
  current = $state.raw<Route>(parseHash(location.hash));

  constructor() {
    addEventListener("hashchange", () => (this.current = parseHash(location.hash)));
  }

  go(hash: string): void {
    location.hash = hash;
    this.current = parseHash(hash);
  }

  /** Changes the address without a step in the browser's history. */
  replace(hash: string): void {
    history.replaceState(null, "", hash);
    this.current = parseHash(hash);
  }
}

export const router = new Router();
