import { describe, expect, test } from "vitest";
import { renderMarkdown } from "./render";
import { sanitise } from "./sanitise";

// Known vectors: OWASP's filter evasion sheet, DOMPurify's own fixtures, and what Markdown renderers fell for.
const HOSTILE = [
  "<script>window.pwned = 1</script>",
  '<img src=x onerror="window.pwned = 1">',
  "<svg onload=alert(1)>",
  "<svg><script>alert(1)</script></svg>",
  "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
  '<iframe src="javascript:alert(1)"></iframe>',
  '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
  '<object data="javascript:alert(1)"></object>',
  '<embed src="data:text/html,<script>alert(1)</script>">',
  '<a href="javascript:alert(1)">x</a>',
  '<a href=" &#14; javascript:alert(1)">x</a>',
  '<a href="jav&#x09;ascript:alert(1)">x</a>',
  '<a href="JaVaScRiPt:alert(1)">x</a>',
  '<a href="vbscript:msgbox(1)">x</a>',
  '<a href="data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==">x</a>',
  '<form action="https://example.org"><input name=password><button formaction="javascript:alert(1)">go</button></form>',
  "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
  "<style>@import 'https://example.org/x.css';</style>",
  '<div style="background:url(https://example.org/x)">x</div>',
  '<base href="https://example.org/">',
  '<meta http-equiv="refresh" content="0;url=https://example.org">',
  '<link rel="stylesheet" href="https://example.org/x.css">',
  "<video src=x onerror=alert(1)></video>",
  "<details open ontoggle=alert(1)>x</details>",
  "<input autofocus onfocus=alert(1)>",
  "<template><img src=x onerror=alert(1)></template>",
  '<noscript><p title="</noscript><img src=x onerror=alert(1)>"></noscript>',
  '<p id="__proto__" name="getElementById">clobber</p>',
  "[x](javascript:alert(1))",
  "[x](<java\nscript:alert(1)>)",
  "[x](data:text/html,<script>alert(1)</script>)",
  "[x](file:///etc/passwd)",
  "[x][y]\n\n[y]: javascript:alert(1)",
  "<javascript:alert(1)>",
  "![x](javascript:alert(1))",
  "![x](https://example.org/pixel.png)",
  '![x"onerror="alert(1)](https://example.org/x.png)',
  '![x](https://example.org/x.png"onerror="alert(1))',
  '[x](https://example.org "a\\" onmouseover=\\"alert(1)")',
  "```html\n<script>alert(1)</script>\n```",
  '```"><img src=x onerror=alert(1)>\ncode\n```',
  "`<img src=x onerror=alert(1)>`",
  "$\\href{javascript:alert(1)}{x}$",
  "$$\\htmlData{x=<img src=x onerror=alert(1)>}{x}$$",
  "$<img src=x onerror=alert(1)>$",
  "| <script>alert(1)</script> |\n| --- |\n| <img src=x onerror=alert(1)> |",
  "- [x] <img src=x onerror=alert(1)>",
];

const FORBIDDEN =
  "script, iframe, object, embed, img, svg, video, audio, style, link, meta, base, form, template, [style], [id], [name], [srcdoc]";

function expectHarmless(fragment: DocumentFragment): void {
  // The frame of code blocks is ours; its buttons and captions have no attributes from the source.
  expect([...fragment.querySelectorAll(FORBIDDEN)].map((node) => node.outerHTML)).toEqual([]);
  for (const element of fragment.querySelectorAll("*")) {
    for (const { name } of element.attributes) expect(name).not.toMatch(/^on/i);
    const href = element.getAttribute("href");
    if (href !== null) expect(href).toMatch(/^(https?:\/\/|mailto:)/i);
  }
}

describe("hostile text", () => {
  test.each(HOSTILE)("as Markdown has no power: %s", (source) => {
    expectHarmless(renderMarkdown(source));
  });

  test.each(HOSTILE)("as HTML that the parser let through has no power either: %s", (source) => {
    expectHarmless(sanitise(source));
  });
});

describe("links", () => {
  test("open in a page of their own that learns nothing of this one", () => {
    const link = renderMarkdown("[tea](https://example.org/tea)").querySelector("a");
    expect(link?.getAttribute("target")).toBe("_blank");
    expect(link?.getAttribute("rel")).toContain("noopener");
    expect(link?.getAttribute("rel")).toContain("noreferrer");
  });

  test("of mail and of bare addresses work", () => {
    const links = renderMarkdown("<mailto:a@example.org> and https://example.org").querySelectorAll("a");
    expect([...links].map((link) => link.getAttribute("href"))).toEqual([
      "mailto:a@example.org",
      "https://example.org",
    ]);
  });
});

test("a remote image is not fetched: its name and address are shown", () => {
  const fragment = renderMarkdown("![a samovar](https://example.org/s.png)");
  expect(fragment.querySelector("img")).toBeNull();
  expect(fragment.textContent).toContain("a samovar");
  expect(fragment.querySelector(".image a")?.getAttribute("href")).toBe("https://example.org/s.png");
});
