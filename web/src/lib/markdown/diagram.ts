/** Draws Mermaid's diagrams. Mermaid is loaded with the first one. The drawing is shown as an image, in which no script can run. */

let loading: Promise<(typeof import("mermaid"))["default"]> | null = null;
let nDiagrams = 0;

const MAX_CHARS = 20_000;

/** An image of the diagram. Throws what Mermaid says where the source is not right. */
export async function drawDiagram(source: string, isDark: boolean): Promise<HTMLImageElement> {
  if (source.length > MAX_CHARS)
    throw new Error(`The diagram has ${source.length} characters, ${MAX_CHARS} are drawn.`);
  loading ??= import("mermaid").then((module) => module.default);
  const mermaid = await loading.catch((error: unknown) => {
    loading = null;
    throw error;
  });
  mermaid.initialize({
    startOnLoad: false,
    securityLevel: "strict",
    htmlLabels: false,
    flowchart: { htmlLabels: false },
    suppressErrorRendering: true,
    theme: isDark ? "dark" : "neutral",
  });
  const { svg } = await mermaid.render(`diagram-${nDiagrams++}`, source);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const width = /viewBox="[-\d.]+ [-\d.]+ ([\d.]+)/.exec(svg)?.[1];
  if (width) image.style.inlineSize = `${Math.ceil(Number(width))}px`;
  return image;
}
