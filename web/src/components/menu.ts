/** What a menu holds, and where its keys lead. */

export type MenuItem = {
  label: string;
  run: () => void;
  isDanger?: boolean;
  /** Set for one of several choices; the chosen one is ticked. */
  isChecked?: boolean;
};

/** The item that a key leads to from `current` (-1: none yet); null for a key that is not the menu's. */
export function nextIndex(key: string, current: number, items: readonly MenuItem[]): number | null {
  const n = items.length;
  if (n === 0) return null;
  if (key === "ArrowDown") return (current + 1) % n;
  if (key === "ArrowUp") return (Math.max(current, 0) - 1 + n) % n;
  if (key === "Home") return 0;
  if (key === "End") return n - 1;
  if (key.length !== 1 || key === " ") return null;
  const letter = key.toLowerCase();
  for (let step = 1; step <= n; step++) {
    const index = (current + step + n) % n;
    if (items[index]?.label.toLowerCase().startsWith(letter)) return index;
  }
  return null;
}
