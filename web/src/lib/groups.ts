/** The list of chats cut into groups: pinned, then by the day of the last change. Days are those of the reader's clock. */

import type { Chat } from "$lib/api";

export type Group = { id: string; chats: Chat[] } & (
  { kind: "pinned" | "today" | "yesterday" | "week" } | { kind: "month"; month: Date }
);

/** Pinned first, then the one changed last; equal times by id, so that the order never flickers. */
export function compareChats(a: Chat, b: Chat): number {
  return Number(b.is_pinned) - Number(a.is_pinned) || b.updated_ms - a.updated_ms || (a.id < b.id ? -1 : 1);
}

/** Groups in order, none of them empty. `chats` must be sorted by `compareChats`. */
export function groupChats(chats: readonly Chat[], now: Date): Group[] {
  const groups: Group[] = [];
  for (const chat of chats) {
    const group = emptyGroup(chat, now);
    const last = groups.at(-1);
    if (last?.id === group.id) last.chats.push(chat);
    else groups.push({ ...group, chats: [chat] });
  }
  return groups;
}

function emptyGroup(chat: Chat, now: Date): Group {
  const chats: Chat[] = [];
  if (chat.is_pinned) return { id: "pinned", kind: "pinned", chats };
  const changed = new Date(chat.updated_ms);
  const nDays = daysBetween(changed, now);
  if (nDays <= 0) return { id: "today", kind: "today", chats };
  if (nDays === 1) return { id: "yesterday", kind: "yesterday", chats };
  if (nDays < 7) return { id: "week", kind: "week", chats };
  const month = new Date(changed.getFullYear(), changed.getMonth(), 1);
  return { id: `month-${String(month.getFullYear())}-${String(month.getMonth() + 1)}`, kind: "month", month, chats };
}

/** Midnights between two moments. Counted on the calendar, as a day of a change of clocks has 23 or 25 hours. */
function daysBetween(earlier: Date, later: Date): number {
  const day = (date: Date) => Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) / 86_400_000;
  return day(later) - day(earlier);
}
