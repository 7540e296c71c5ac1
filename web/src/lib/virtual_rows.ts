/**
 * Which rows of a long list have to be in the page. Rows have heights of their own: measured once they were shown, estimated
 * before. All lengths are pixels, all positions are from the top of the list.
 */

export type Window = { first: number; end: number; before: number; after: number };

/** A row and how far the top of the viewport is below its own top: where a reader is, whatever changes above. */
export type Anchor = { id: string; offset: number };

export class VirtualRows {
  #ids: readonly string[] = [];
  #heights = new Map<string, number>();
  #tops: Float64Array | null = null;
  #estimate: (index: number) => number = () => 100;

  setRows(ids: readonly string[], estimate: (index: number) => number): void {
    this.#ids = ids;
    this.#estimate = estimate;
    this.#tops = null;
  }

  /** Returns whether the height was another one before. */
  measure(id: string, height: number): boolean {
    if (this.#heights.get(id) === height) return false;
    this.#heights.set(id, height);
    this.#tops = null;
    return true;
  }

  get totalHeight(): number {
    return this.topOf(this.#ids.length);
  }

  /** The top of a row by its index; of the index behind the last one, the whole height. */
  topOf(index: number): number {
    return this.#allTops()[index] ?? 0;
  }

  /** The rows that meet the viewport with `margin` on either side, and the heights of what is left out before and after. */
  window(top: number, height: number, margin: number): Window {
    if (this.#ids.length === 0) return { first: 0, end: 0, before: 0, after: 0 };
    const first = this.indexAt(top - margin);
    const end = this.indexAt(top + height + margin) + 1;
    return { first, end, before: this.topOf(first), after: this.totalHeight - this.topOf(end) };
  }

  /** The row at a position; the first above the list, the last below it. */
  indexAt(position: number): number {
    const tops = this.#allTops();
    let [low, high] = [0, this.#ids.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((tops[middle] ?? 0) <= position) low = middle;
      else high = middle - 1;
    }
    return Math.max(0, low);
  }

  anchorAt(top: number): Anchor | null {
    const index = this.indexAt(top);
    const id = this.#ids[index];
    return id === undefined ? null : { id, offset: top - this.topOf(index) };
  }

  /** Where the viewport's top belongs so that the anchor stays in its place; null where its row is gone. */
  topFor(anchor: Anchor): number | null {
    const index = this.#ids.indexOf(anchor.id);
    return index < 0 ? null : this.topOf(index) + anchor.offset;
  }

  #allTops(): Float64Array {
    if (this.#tops !== null) return this.#tops;
    const tops = new Float64Array(this.#ids.length + 1);
    let top = 0;
    this.#ids.forEach((id, index) => {
      tops[index] = top;
      top += this.#heights.get(id) ?? this.#estimate(index);
    });
    tops[this.#ids.length] = top;
    return (this.#tops = tops);
  }
}
