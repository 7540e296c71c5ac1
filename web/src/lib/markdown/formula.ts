/** Sets formulas with KaTeX, which is loaded with the first one. */

type Katex = (typeof import("katex"))["default"];

const MAX_CHARS = 10_000;

let katex: Katex | null = null;
let loading: Promise<void> | null = null;

async function load(): Promise<void> {
  try {
    const [{ default: engine }] = await Promise.all([import("katex"), import("katex/dist/katex.min.css")]);
    katex = engine;
  } finally {
    // After a failure the next formula tries again.
    loading = null;
  }
}

/** Loads KaTeX while a text that begins a formula is still being written, so that it is there when the formula is whole. */
export function expectFormulas(source: string): void {
  if (katex !== null || !/\$\$|\$[^\s\d]|\\[([]/.test(source)) return;
  loading ??= load();
  loading.catch(() => undefined);
}

/** Sets the formula whose source is the element's text. Links, images and HTML in it are refused (`trust: false`). */
export function setFormula(element: HTMLElement): void {
  const source = element.textContent;
  if (source.length > MAX_CHARS) return;
  if (katex === null) {
    loading ??= load();
    loading.then(
      () => setFormula(element),
      // The source of a formula can be read too.
      () => undefined,
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
