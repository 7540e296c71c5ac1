/** Sets formulas with KaTeX, which is loaded with the first one. */

type Katex = (typeof import("katex"))["default"];

const MAX_CHARS = 10_000;

let katex: Katex | null = null;
let loading: Promise<void> | null = null;

async function load(): Promise<void> {
  const [{ default: engine }] = await Promise.all([import("katex"), import("katex/dist/katex.min.css")]);
  katex = engine;
}

/** Sets the formula whose source is the element's text. Links, images and HTML in it are refused (`trust: false`). */
export function setFormula(element: HTMLElement): void {
  const source = element.textContent;
  if (source.length > MAX_CHARS) return;
  if (katex === null) {
    loading ??= load();
    loading.then(
      () => setFormula(element),
      () => (loading = null),
    );
    return;
  }
  const displayMode = element.classList.contains("display");
  try {
    katex.render(source, element, { displayMode, trust: false, strict: "ignore", maxSize: 30, maxExpand: 500 });
  } catch {
    // Half a formula, or a wrong one: its source says more than an error would.
    element.textContent = source;
    element.classList.add("raw");
  }
}
