/** One line of the command palette. */
export type PaletteEntry = { id: string; label: string; kind: string; keys?: string; run: () => void };
