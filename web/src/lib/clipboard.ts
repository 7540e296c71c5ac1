/** Puts text on the clipboard. */

/** Whether `text` is on the clipboard. The clipboard interface is only there over TLS and on loopback; elsewhere a selection is copied. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text: string): boolean {
  const focused = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.readOnly = true; // no keyboard comes up on a phone
  area.className = "visually-hidden";
  Object.assign(area.style, { position: "fixed", insetBlockStart: "0", whiteSpace: "pre" }); // nothing scrolls, lines stay
  // Outside an open dialog nothing can be selected.
  (focused?.closest("dialog") ?? document.body).append(area);
  area.focus({ preventScroll: true });
  area.select();
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  } finally {
    area.remove();
    if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
  }
}
