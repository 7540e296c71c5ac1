/** Keys of commands, written as `mod+shift+o`; `mod` is Command on Apple's machines and Ctrl elsewhere. */

export type Pressed = Pick<KeyboardEvent, "key" | "code" | "ctrlKey" | "metaKey" | "shiftKey" | "altKey">;

const IS_APPLE = /mac|iphone|ipad/i.test(navigator.platform);
const SIGNS: Record<string, string> = { mod: "⌘", shift: "⇧", alt: "⌥", escape: "Esc" };
const WORDS: Record<string, string> = { mod: "Ctrl", shift: "Shift", alt: "Alt", escape: "Esc" };

/**
 * Whether the pressed keys are `keys`. Letters count by what they type and, where that is no Latin letter (Arabic,
 * Japanese input), by their place on the keyboard. A sign such as `?` holds its own Shift.
 */
export function fits(keys: string, pressed: Pressed, isApple = IS_APPLE): boolean {
  const parts = keys.split("+");
  const wanted = parts.at(-1) ?? "";
  const isLetter = /^[a-z]$/.test(wanted);
  const key = pressed.key.toLowerCase();
  const isKey = key === wanted || (isLetter && !/^[a-z]$/.test(key) && pressed.code === `Key${wanted.toUpperCase()}`);
  const isSign = wanted.length === 1 && !/[a-z0-9]/.test(wanted);
  return (
    isKey &&
    parts.includes("mod") === (isApple ? pressed.metaKey : pressed.ctrlKey) &&
    !(isApple ? pressed.ctrlKey : pressed.metaKey) &&
    (isSign || parts.includes("shift") === pressed.shiftKey) &&
    parts.includes("alt") === pressed.altKey
  );
}

/** Whether the keys would type something where the focus is: such commands wait until it is elsewhere. */
export function isTyping(keys: string, target: EventTarget | null): boolean {
  if (/\b(mod|alt)\+/.test(keys) || keys === "escape") return false;
  return target instanceof HTMLElement && target.matches("input, textarea, select, [contenteditable]");
}

/** The keys as they are printed on the keyboard: `Ctrl+Shift+O`, `⌘⇧O`. */
export function spoken(keys: string, isApple = IS_APPLE): string {
  const names = isApple ? SIGNS : WORDS;
  return keys
    .split("+")
    .map((part) => names[part] ?? (part.length === 1 ? part.toUpperCase() : part[0]?.toUpperCase() + part.slice(1)))
    .join(isApple ? "" : "+");
}
