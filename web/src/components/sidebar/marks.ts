/** Snippets of search hits: the server puts U+0002 before a hit and U+0003 behind it. */

export type Piece = { text: string; isHit: boolean };

/** The snippet in pieces without the marks. A mark that has lost its partner ends with the text. */
export function splitMarks(snippet: string): Piece[] {
  const pieces: Piece[] = [];
  for (const [i, part] of snippet.split("\u0002").entries()) {
    const [first = "", ...rest] = part.split("\u0003");
    pieces.push({ text: first, isHit: i > 0 }, { text: rest.join(""), isHit: false });
  }
  return pieces.filter((piece) => piece.text !== "");
}
