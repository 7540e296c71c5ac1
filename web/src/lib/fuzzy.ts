/** Fuzzy search for the command palette: the letters of the query in their order, not necessarily side by side. */

const START_OF_WORD = 8;
const SIDE_BY_SIDE = 5;
const GAP = 1;
const MAX_GAP = 10;

/** Letters without case and accents, so that "resume" finds "Résumé". */
export function fold(text: string): string {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

/** How well `query` fits `text`, higher is better; null where a letter is missing. Cost: query times text. */
export function fuzzyScore(query: string, text: string): number | null {
  const wanted = [...fold(query).replace(/\s+/g, "")];
  const letters = [...fold(text)];
  if (wanted.length === 0) return 0;
  // best[i]: the best score of a match of the wanted letters so far that ends at letter i
  let best = new Map<number, number>();
  for (const [n, letter] of wanted.entries()) {
    const next = new Map<number, number>();
    for (let i = n; i < letters.length; i++) {
      if (letters[i] !== letter) continue;
      const before = n === 0 ? -Math.min(i, MAX_GAP) * 0.1 : bestBefore(best, i);
      if (before !== null) next.set(i, before + (isStart(letters, i) ? START_OF_WORD : 1));
    }
    if (next.size === 0) return null;
    best = next;
  }
  return Math.max(...best.values()) - letters.length * 0.01;
}

/** `items` that fit, the best first; equal ones stay in their order. */
export function fuzzyFilter<T>(query: string, items: readonly T[], textOf: (item: T) => string): T[] {
  return items
    .map((item) => ({ item, score: fuzzyScore(query, textOf(item)) }))
    .filter((found): found is { item: T; score: number } => found.score !== null)
    .sort((a, b) => b.score - a.score)
    .map(({ item }) => item);
}

function bestBefore(best: ReadonlyMap<number, number>, i: number): number | null {
  let found: number | null = null;
  for (const [j, score] of best) {
    if (j >= i) continue;
    const here = score + (j === i - 1 ? SIDE_BY_SIDE : -Math.min(i - j - 1, MAX_GAP) * GAP);
    if (found === null || here > found) found = here;
  }
  return found;
}

function isStart(letters: readonly string[], i: number): boolean {
  const before = letters[i - 1];
  return before === undefined || !/[\p{L}\p{N}]/u.test(before);
}
