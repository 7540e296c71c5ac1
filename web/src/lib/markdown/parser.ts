/** Markdown to HTML: CommonMark with tables, strikethrough, task lists, bare links and formulas. HTML in the source is text. */

import createMarkdown, { type MarkdownIt, type StateCore, type Token } from "markdown-it";
import { math } from "./math";

export type References = NonNullable<NonNullable<Parameters<MarkdownIt["parse"]>[1]>["references"]>;

const TASK = /^\[([ xX])\]\s+/;

/** `- [x] done`: a box that shows the state and cannot be clicked. */
function taskLists(md: MarkdownIt): void {
  md.core.ruler.after("inline", "task_lists", ({ tokens, Token }: StateCore) => {
    for (const [i, token] of tokens.entries()) {
      const isItemText = token.type === "inline" && tokens[i - 2]?.type === "list_item_open";
      const found = isItemText ? TASK.exec(token.content) : null;
      const text = token.children?.[0];
      if (!found || text?.type !== "text") continue;
      text.content = text.content.replace(TASK, "");
      const box = new Token("task", "", 0);
      box.meta = { isDone: found[1] !== " " };
      token.children?.unshift(box);
      tokens[i - 2]?.attrSet("class", "task");
    }
  });
  md.renderer.rules["task"] = (tokens, at) => {
    const { isDone } = tokens[at]?.meta as { isDone: boolean };
    return `<input type="checkbox" disabled${isDone ? " checked" : ""}> `;
  };
}

/** Columns are aligned by a class, so that no style attribute has to pass the sanitiser. */
function alignByClass(tokens: Token[], at: number): void {
  const token = tokens[at];
  const side = /text-align:(\w+)/.exec(String(token?.attrGet("style") ?? ""))?.[1];
  if (token?.attrs) token.attrs = token.attrs.filter(([name]) => name !== "style");
  if (side) token?.attrSet("class", `align-${side}`);
}

function makeParser(): MarkdownIt {
  const md = createMarkdown({ html: false, linkify: true }).use(math).use(taskLists);
  const escape = md.utils.escapeHtml;
  for (const cell of ["th_open", "td_open"]) {
    md.renderer.rules[cell] = (tokens, at, options, _env, self) => {
      alignByClass(tokens, at);
      return self.renderToken(tokens, at, options);
    };
  }
  // Wide tables scroll by themselves. A region that scrolls has to be reachable with the keyboard.
  md.renderer.rules["table_open"] = () => '<div class="table" tabindex="0"><table>\n';
  md.renderer.rules["table_close"] = () => "</table></div>\n";
  md.renderer.rules["image"] = (tokens, at) => {
    const token = tokens[at];
    const address = String(token?.attrGet("src") ?? "");
    return `<span class="image" data-address="${escape(address)}">${escape(token?.content ?? "")}</span>`;
  };
  md.renderer.rules.fence = (tokens, at) => {
    const token = tokens[at];
    return `<pre data-language="${escape(languageOf(token?.info ?? ""))}"><code>${escape(token?.content ?? "")}</code></pre>`;
  };
  md.renderer.rules.code_block = (tokens, at) =>
    `<pre data-language=""><code>${escape(tokens[at]?.content ?? "")}</code></pre>`;
  return md;
}

/** The first word behind a fence, without the braces that some write: "{.python}" is "python". */
export function languageOf(info: string): string {
  return (/[\w+#-]+/.exec(info)?.[0] ?? "").toLowerCase();
}

export const parser = makeParser();

/** The HTML of a piece of Markdown. It is not sanitised. `references` are link definitions from elsewhere in the text. */
export function toHtml(source: string, references: References): string {
  return parser.render(source, { references: { ...references } });
}
