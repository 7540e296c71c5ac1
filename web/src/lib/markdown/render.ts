/** From Markdown to nodes for the page: parsed, sanitised, then given what only trusted code may add. */

import { copyText } from "../clipboard";
import { t } from "../i18n";
import { notices } from "../state/notices.svelte";
import { drawDiagram } from "./diagram";
import { expectFormulas, setFormula } from "./formula";
import { highlight } from "./highlight";
import { toHtml, type References } from "./parser";
import { sanitise } from "./sanitise";

const COPIED_MS = 1500;

function button(label: string, run: (button: HTMLButtonElement) => void): HTMLButtonElement {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "code-button";
  made.textContent = label;
  made.addEventListener("click", () => run(made));
  return made;
}

async function copy(text: string, made: HTMLButtonElement): Promise<void> {
  if (!(await copyText(text))) {
    notices.add(t("message.copy_failed"), "error");
    return;
  }
  const label = made.textContent;
  made.textContent = t("code.copied");
  setTimeout(() => (made.textContent = label), COPIED_MS);
}

async function showDiagram(figure: HTMLElement, source: string, made: HTMLButtonElement): Promise<void> {
  made.disabled = true;
  try {
    const isDark = matchesDark();
    const image = await drawDiagram(source, isDark);
    image.alt = t("code.diagram_alt");
    figure.querySelector("pre")?.replaceWith(image);
    made.remove();
  } catch (error) {
    made.disabled = false;
    made.title = error instanceof Error ? error.message : String(error);
    made.textContent = t("code.diagram_failed");
  }
}

function matchesDark(): boolean {
  const chosen = document.documentElement.dataset["theme"];
  return chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}

/** A block of code with its language, a button to copy it and, for Mermaid, one to draw it. */
export class CodeFigure {
  readonly element = document.createElement("figure");
  #code = document.createElement("code");
  #caption = document.createElement("figcaption");
  #label = document.createElement("span");
  #language = "";
  #text = "";
  #draw: HTMLButtonElement | null = null;

  constructor() {
    const pre = document.createElement("pre");
    pre.tabIndex = 0;
    pre.dir = "ltr";
    pre.append(this.#code);
    this.element.className = "code";
    this.#caption.append(
      this.#label,
      button(t("code.copy"), (made) => void copy(this.#text, made)),
    );
    this.element.append(this.#caption, pre);
  }

  /** Shows `text`. Where it is what stood there with more behind it, the rest is appended, and colours wait for `isWhole`. */
  update(language: string, text: string, isWhole: boolean): void {
    if (language !== this.#language || this.#label.textContent === "") {
      this.#language = language;
      this.#label.textContent = language || t("code.plain");
    }
    if (text !== this.#text) {
      const last = this.#code.lastChild;
      if (last instanceof Text && text.startsWith(this.#text)) last.appendData(text.slice(this.#text.length));
      else this.#code.textContent = text;
      this.#text = text;
    }
    if (isWhole) {
      highlight(this.#code, language);
      this.#offerDiagram();
    }
  }

  #offerDiagram(): void {
    if (this.#language !== "mermaid" || this.#draw !== null) return;
    this.#draw = button(t("code.draw"), (made) => void showDiagram(this.element, this.#text, made));
    this.#caption.append(this.#draw);
  }
}

function placeholder(image: HTMLElement): void {
  const address = image.dataset["address"] ?? "";
  const note = document.createElement("span");
  note.textContent = t("markdown.image", { name: image.textContent || "—" });
  image.replaceChildren(note);
  if (/^https?:\/\//i.test(address)) {
    const link = document.createElement("a");
    link.href = address;
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    link.textContent = address;
    image.append(" ", link);
  }
}

/** The nodes of one block. Formulas and code are finished later where their part has to be loaded first. */
export function renderMarkdown(source: string, references: References = {}): DocumentFragment {
  expectFormulas(source);
  const fragment = sanitise(toHtml(source, references));
  for (const pre of fragment.querySelectorAll<HTMLElement>("pre[data-language]")) {
    const figure = new CodeFigure();
    figure.update(pre.dataset["language"] ?? "", pre.textContent.replace(/\n$/, ""), true);
    pre.replaceWith(figure.element);
  }
  for (const formula of fragment.querySelectorAll<HTMLElement>(".math")) setFormula(formula);
  for (const image of fragment.querySelectorAll<HTMLElement>(".image")) placeholder(image);
  // A model skips levels as it likes. Below the message's own heading (level 2) all of its headings are equals for a screen reader.
  for (const heading of fragment.querySelectorAll("h1, h2, h3, h4, h5, h6")) heading.setAttribute("aria-level", "3");
  for (const box of fragment.querySelectorAll("input"))
    box.setAttribute("aria-label", box.checked ? t("markdown.task_done") : t("markdown.task_open"));
  for (const table of fragment.querySelectorAll<HTMLElement>("div.table")) {
    table.setAttribute("role", "region");
    table.setAttribute("aria-label", t("markdown.table"));
  }
  return fragment;
}
