/** Made-up answers of the mock server. The first word of the question chooses one; anything else gets `demo`. */

const demo = `# Tea from a samovar

The water stays just below boiling, about $T \\approx 95\\,^\\circ\\mathrm{C}$, and a strong brew is thinned in the cup.

| part | made of | holds |
| :--- | :-----: | ----: |
| body | brass | 5 l |
| pot | china | 0.8 l |
| tray | tin | |

- [x] fill the body
- [ ] light the cones
  1. dry pine
  2. no resin

$$ Q = m c \\Delta T = 5 \\cdot 4186 \\cdot 75 \\approx 1.57\\,\\mathrm{MJ} $$

\`\`\`python
def minutes(litres: float, watts: float = 900.0) -> float:
    """Time to heat water from 20 to 95 degrees."""
    return litres * 4186 * 75 / watts / 60
\`\`\`

> A guest is first given tea, then asked for the news.

![a picture](https://example.org/samovar.png) See [the article](https://example.org/samovar).
`;

const diagram = "```mermaid\nflowchart LR\n  Water --> Fire\n  Fire --> Tea\n```\n";

const hostile = [
  "<script>window.pwned = 1</script>",
  '<img src=x onerror="window.pwned = 1">',
  "[link](javascript:window.pwned=1)",
  "![x](https://example.org/pixel.png)",
  "```html\n<script>window.pwned = 1</script>\n```",
  "$\\href{javascript:window.pwned=1}{x}$",
].join("\n\n");

const long = Array.from(
  { length: 120 },
  (_, i) => `Paragraph ${i + 1} of a long answer. ${"All the words of it. ".repeat(12)}`,
).join("\n\n");

const ANSWERS = { demo, diagram, hostile, long, json: '{"name": "Ada", "age": 36}' };

export const THOUGHTS =
  "The person asks about tea.\n\nI could list the parts first, then the heat that is needed: *mass times heat capacity times the rise*. ".repeat(
    3,
  );

export function answerTo(question) {
  return ANSWERS[question.trim().split(/\s/)[0]?.toLowerCase()] ?? demo;
}
