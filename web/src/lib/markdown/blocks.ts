/**
 * Cuts a growing text of Markdown into its top-level blocks. A block that can no longer change keeps its object, so that only the
 * last, open block is parsed and drawn again while an answer is being written.
 */

import createMarkdown, { type Token } from "markdown-it";
import { math } from "./math";
import { languageOf, type References } from "./parser";

export type Block = {
  /** Where it begins in the text: the key to draw it by. */
  start: number;
  source: string;
  /** Of a fenced block of code. */
  fence: { language: string; code: string } | null;
  /** Link definitions of the whole text so far, where the block may use them. */
  references: References;
};

const NONE: References = {};

// Block structure alone: what is in a line is parsed when the block is drawn.
const structure = createMarkdown({ html: false }).use(math);
structure.core.ruler.enableOnly(["normalize", "block"]);

export class BlockSplitter {
  #text = "";
  #closed: Block[] = [];
  #closedEnd = 0;
  /** Link definitions so far, and those of them that can no longer change: "[a]: h" is whole, and goes on as "[a]: https". */
  #references: References = NONE;
  #closedReferences: References = NONE;

  /** The blocks of `text`. Cheap where it is the text of the last call with more behind it. */
  update(text: string): Block[] {
    if (!text.startsWith(this.#text)) this.#reset();
    this.#text = text;
    const rest = text.slice(this.#closedEnd);
    const env: { references: References } = { references: { ...this.#closedReferences } };
    const found = this.#cut(rest, structure.parse(rest, env));
    this.#takeReferences(env.references);
    const open = this.#close(rest, found);
    return [...this.#closed, ...open];
  }

  #reset(): void {
    this.#closed = [];
    this.#closedEnd = 0;
    this.#references = this.#closedReferences = NONE;
  }

  #cut(rest: string, tokens: Token[]): Block[] {
    const starts = lineStarts(rest);
    const tops = tokens.filter((token) => token.level === 0 && token.nesting >= 0 && token.map !== null);
    return tops.map((token, i) => {
      // The first block takes what is before it, each takes all to the next: definitions and blank lines belong to someone.
      const start = i === 0 ? 0 : (starts[token.map?.[0] ?? 0] ?? 0);
      const end = starts[tops[i + 1]?.map?.[0] ?? Infinity] ?? rest.length;
      const fence =
        token.type === "fence" ? { language: languageOf(token.info), code: token.content.replace(/\n$/, "") } : null;
      return { start: this.#closedEnd + start, source: rest.slice(start, end), fence, references: NONE };
    });
  }

  /** A block is closed once another began on a complete line: "#" alone begins a heading, "#tea" does not. */
  #close(rest: string, found: Block[]): Block[] {
    const lastLine = this.#closedEnd + rest.lastIndexOf("\n") + 1;
    let nClosed = 0;
    while (nClosed + 1 < found.length && (found[nClosed + 1]?.start ?? lastLine) < lastLine) nClosed++;
    const withReferences = found.map((block) => this.#refer(block));
    for (const block of withReferences.slice(0, nClosed)) {
      const env = { references: { ...this.#closedReferences } };
      structure.parse(block.source, env);
      this.#closedReferences = env.references;
      this.#closed.push(block);
    }
    this.#closedEnd = found[nClosed]?.start ?? this.#closedEnd;
    return withReferences.slice(nClosed);
  }

  #refer(block: Block): Block {
    const references = block.fence === null && block.source.includes("[") ? this.#references : NONE;
    return references === block.references ? block : { ...block, references };
  }

  #takeReferences(references: References): void {
    if (JSON.stringify(references) === JSON.stringify(this.#references)) return;
    this.#references = references;
    this.#closed = this.#closed.map((block) => this.#refer(block));
  }
}

function lineStarts(text: string): number[] {
  const starts = [0];
  for (const { index, 0: found } of text.matchAll(/\r\n|\n|\r/g)) starts.push(index + found.length);
  return starts;
}
