/** Puts a quotation before what is already written in the composer. */
export function withQuote(draft: string, quoted: string): string {
  const lines = quoted.trim().split(/\r\n|\n|\r/);
  const quote = lines.map((line) => (line === "" ? ">" : `> ${line}`)).join("\n");
  return [draft.trimEnd(), quote, ""].filter((part, i) => part !== "" || i === 2).join("\n\n");
}

/** The selected text where the selection lies within `element`, else an empty text. */
export function selectedWithin(element: Element): string {
  const selection = getSelection();
  if (!selection || selection.isCollapsed || selection.rangeCount === 0) return "";
  return element.contains(selection.getRangeAt(0).commonAncestorContainer) ? selection.toString() : "";
}
