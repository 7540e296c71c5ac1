import { describe, expect, test } from "vitest";
import { BlockSplitter } from "./blocks";
import { renderMarkdown } from "./render";

const html = (source: string) => {
  const box = document.createElement("div");
  box.append(renderMarkdown(source));
  return box;
};

describe("Markdown", () => {
  test("aligns the columns of a table without a style attribute", () => {
    const cells = html("| a | b |\n| :-- | --: |\n| 1 | 2 |").querySelectorAll("td");
    expect([...cells].map((cell) => cell.className)).toEqual(["align-left", "align-right"]);
  });

  test("shows task lists as boxes that cannot be clicked", () => {
    const boxes = html("- [x] done\n- [ ] open").querySelectorAll("input");
    expect([...boxes].map((box) => [box.checked, box.disabled])).toEqual([
      [true, true],
      [false, true],
    ]);
  });

  test("labels code with its language and keeps its text as it is", () => {
    const figure = html("```python\nif a < b:\n    pass\n```").querySelector("figure");
    expect(figure?.querySelector("figcaption span")?.textContent).toBe("python");
    expect(figure?.querySelector("code")?.textContent).toBe("if a < b:\n    pass");
  });

  test("frames code within a list too", () => {
    expect(html("- a\n\n  ```js\n  x\n  ```").querySelector("li figure code")?.textContent).toBe("x");
  });

  test.each([
    ["$a+b$", "a+b"],
    ["\\(a+b\\)", "a+b"],
    ["so $$a+b$$ is", "a+b"],
    ["$$\na+b\n$$", "a+b"],
    ["\\[\na+b\n\\]", "a+b"],
  ])("finds the formula in %s", (source, formula) => {
    expect(html(source).querySelector(".math")?.textContent.trim()).toBe(formula);
  });

  test.each(["it costs $5 and $6", "a $ b $ c", "`$a$`", "\\$a$", "open $a"])("finds no formula in %s", (source) => {
    expect(html(source).querySelector(".math")).toBeNull();
  });

  test("leaves underscores and stars in a formula alone", () => {
    expect(html("$a_1 * b_2 * c$").querySelector(".math")?.textContent).toBe("a_1 * b_2 * c");
  });
});

const TEXT = `# Title

A paragraph with a [link][ref].

- one

- two
  1. nested

| a | b |
| - | - |
| 1 | 2 |

\`\`\`js
let a = 1;

let b = 2;
\`\`\`

$$
x
$$

[ref]: https://example.org

The end.
`;

function whole(text: string): string {
  return html(text).innerHTML.replaceAll("\n", "");
}

function byBlocks(splitter: BlockSplitter, text: string): string {
  const box = document.createElement("div");
  for (const { source, references } of splitter.update(text)) box.append(renderMarkdown(source, references));
  return box.innerHTML.replaceAll("\n", "");
}

describe("blocks of a growing text", () => {
  test("are drawn as the whole text is, wherever the stream was cut before", () => {
    for (const step of [1, 2, 3, 7, 50]) {
      const splitter = new BlockSplitter();
      for (let end = 0; end < TEXT.length; end += step) splitter.update(TEXT.slice(0, end));
      expect(byBlocks(splitter, TEXT)).toBe(whole(TEXT));
    }
  });

  test("are the text, none of it lost or twice", () => {
    const splitter = new BlockSplitter();
    for (let end = 0; end <= TEXT.length; end++) {
      const blocks = splitter.update(TEXT.slice(0, end));
      const joined = blocks.map(({ source }) => source).join("");
      expect(TEXT.slice(0, end).trim()).toBe(joined.trim());
    }
  });

  test("keep their objects once closed, so that they are not drawn again", () => {
    const splitter = new BlockSplitter();
    const [first] = splitter.update("one\n\ntwo\n\nthr");
    expect(splitter.update("one\n\ntwo\n\nthree")[0]).toBe(first);
    expect(splitter.update("one\n\ntwo\n\nthree\n\nfour")[0]).toBe(first);
  });

  test("wait for a whole line before they believe that another began", () => {
    const splitter = new BlockSplitter();
    splitter.update("para\n#");
    expect(splitter.update("para\n#tea").map(({ source }) => source)).toEqual(["para\n#tea"]);
  });

  test("begin anew where the text is another one", () => {
    const splitter = new BlockSplitter();
    splitter.update("one\n\ntwo\n\nthree");
    expect(splitter.update("uno\n\ndos").map(({ source }) => source.trim())).toEqual(["uno", "dos"]);
  });

  test("hand on the code of an open fence", () => {
    const [block] = new BlockSplitter().update("```py\na = 1\nb");
    expect(block?.fence).toEqual({ language: "py", code: "a = 1\nb" });
  });

  test("count lines that end in CR LF rightly", () => {
    const blocks = new BlockSplitter().update("one\r\n\r\ntwo\r\n\r\nthree");
    expect(blocks.map(({ source }) => source.trim())).toEqual(["one", "two", "three"]);
  });
});
