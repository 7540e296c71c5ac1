/** Formulas in Markdown: `$a$` and `\(a\)` within a line, `$$a$$` and `\[a\]` as blocks of their own or within a line. */

import type { MarkdownIt, StateBlock, StateInline } from "markdown-it";

type Marks = { open: string; close: string; isDisplay: boolean };

const MARKS: readonly Marks[] = [
  { open: "$$", close: "$$", isDisplay: true },
  { open: "$", close: "$", isDisplay: false },
  { open: "\\[", close: "\\]", isDisplay: true },
  { open: "\\(", close: "\\)", isDisplay: false },
];

function findClose(text: string, close: string, from: number): number {
  for (let at = text.indexOf(close, from); at >= 0; at = text.indexOf(close, at + 1)) {
    let nSlashes = 0;
    while (text[at - 1 - nSlashes] === "\\") nSlashes++;
    if (nSlashes % 2 === 0) return at;
  }
  return -1;
}

/** A single `$` is money unless it hugs its formula and no digit follows: "$5 and $6" stays as it is (pandoc's rule). */
function isMoney(text: string, start: number, end: number): boolean {
  return /\s/.test(text[start] ?? " ") || /\s/.test(text[end - 1] ?? " ") || /\d/.test(text[end + 1] ?? "");
}

function inlineMath(state: StateInline, silent: boolean): boolean {
  const marks = MARKS.find(({ open }) => state.src.startsWith(open, state.pos));
  if (marks === undefined) return false;
  const start = state.pos + marks.open.length;
  const end = findClose(state.src, marks.close, start);
  if (end <= start || end > state.posMax) return false;
  if (marks.open === "$" && isMoney(state.src, start, end)) return false;
  if (!silent) {
    const token = state.push(marks.isDisplay ? "math_display" : "math_inline", "", 0);
    token.content = state.src.slice(start, end);
  }
  state.pos = end + marks.close.length;
  return true;
}

function blockMath(state: StateBlock, startLine: number, endLine: number, silent: boolean): boolean {
  const lineOf = (line: number) =>
    state.src.slice((state.bMarks[line] ?? 0) + (state.tShift[line] ?? 0), state.eMarks[line]);
  const first = lineOf(startLine);
  const marks = MARKS.find(({ open, isDisplay }) => isDisplay && first.startsWith(open));
  if (marks === undefined) return false;
  let rest = first.slice(marks.open.length);
  const lines: string[] = [];
  let line = startLine;
  for (;;) {
    const end = findClose(rest, marks.close, 0);
    if (end >= 0) {
      // Words behind the end: then it is a formula within a paragraph.
      if (rest.slice(end + marks.close.length).trim() !== "") return false;
      lines.push(rest.slice(0, end));
      break;
    }
    lines.push(rest);
    if (++line >= endLine) return false;
    rest = lineOf(line);
  }
  if (silent) return true;
  state.line = line + 1;
  const token = state.push("math_block", "", 0);
  token.block = true;
  token.content = lines.join("\n").trim();
  token.map = [startLine, state.line];
  return true;
}

/** Formulas come out as `<span class="math">` or `<div class="math display">` with their source, to be set later. */
export function math(md: MarkdownIt): void {
  md.inline.ruler.before("escape", "math", inlineMath);
  md.block.ruler.before("fence", "math", blockMath, { alt: ["paragraph", "reference", "blockquote", "list"] });
  const escape = md.utils.escapeHtml;
  md.renderer.rules["math_inline"] = (tokens, at) => `<span class="math">${escape(tokens[at]?.content ?? "")}</span>`;
  md.renderer.rules["math_display"] = (tokens, at) =>
    `<span class="math display">${escape(tokens[at]?.content ?? "")}</span>`;
  md.renderer.rules["math_block"] = (tokens, at) =>
    `<div class="math display">${escape(tokens[at]?.content ?? "")}</div>\n`;
}
