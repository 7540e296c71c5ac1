/** An answer is a fold over its events: a whole message, then text to append, then the whole message again. Pure. */

import type { Delta, Message } from "./api";

/** The message with the delta appended, or null where they do not fit together: events are missing, ask for a fresh state. */
export function applyDelta(message: Message, delta: Delta): Message | null {
  const thoughts = message.thoughts ?? "";
  if (delta.at_content !== message.content.length || delta.at_thoughts !== thoughts.length) return null;
  return {
    ...message,
    content: message.content + (delta.content ?? ""),
    thoughts: delta.thoughts === undefined ? message.thoughts : thoughts + delta.thoughts,
    tool_calls: delta.tool_calls ?? message.tool_calls,
  };
}

/** Joins the newest page of a path with what is shown: what was loaded before the page stays where it leads up to it. */
export function joinPage<T extends { id: string }>(
  shown: readonly T[],
  page: readonly T[],
): { rows: T[]; isJoined: boolean } {
  const first = page[0];
  const at = first === undefined ? -1 : shown.findIndex((row) => row.id === first.id);
  return at < 0 ? { rows: [...page], isJoined: false } : { rows: [...shown.slice(0, at), ...page], isJoined: true };
}
