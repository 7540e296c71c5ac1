/** Colours for code. highlight.js and each language are loaded when the first code of that language is shown. */

import type { HLJSApi, LanguageFn } from "highlight.js";
import { sanitise } from "./sanitise";

type Load = () => Promise<{ default: LanguageFn }>;

const LANGUAGES: Record<string, Load> = {
  bash: () => import("highlight.js/lib/languages/bash"),
  c: () => import("highlight.js/lib/languages/c"),
  cpp: () => import("highlight.js/lib/languages/cpp"),
  csharp: () => import("highlight.js/lib/languages/csharp"),
  css: () => import("highlight.js/lib/languages/css"),
  diff: () => import("highlight.js/lib/languages/diff"),
  dockerfile: () => import("highlight.js/lib/languages/dockerfile"),
  elixir: () => import("highlight.js/lib/languages/elixir"),
  go: () => import("highlight.js/lib/languages/go"),
  graphql: () => import("highlight.js/lib/languages/graphql"),
  haskell: () => import("highlight.js/lib/languages/haskell"),
  ini: () => import("highlight.js/lib/languages/ini"),
  java: () => import("highlight.js/lib/languages/java"),
  javascript: () => import("highlight.js/lib/languages/javascript"),
  json: () => import("highlight.js/lib/languages/json"),
  julia: () => import("highlight.js/lib/languages/julia"),
  kotlin: () => import("highlight.js/lib/languages/kotlin"),
  latex: () => import("highlight.js/lib/languages/latex"),
  lua: () => import("highlight.js/lib/languages/lua"),
  makefile: () => import("highlight.js/lib/languages/makefile"),
  markdown: () => import("highlight.js/lib/languages/markdown"),
  matlab: () => import("highlight.js/lib/languages/matlab"),
  nginx: () => import("highlight.js/lib/languages/nginx"),
  objectivec: () => import("highlight.js/lib/languages/objectivec"),
  perl: () => import("highlight.js/lib/languages/perl"),
  php: () => import("highlight.js/lib/languages/php"),
  powershell: () => import("highlight.js/lib/languages/powershell"),
  python: () => import("highlight.js/lib/languages/python"),
  r: () => import("highlight.js/lib/languages/r"),
  ruby: () => import("highlight.js/lib/languages/ruby"),
  rust: () => import("highlight.js/lib/languages/rust"),
  scala: () => import("highlight.js/lib/languages/scala"),
  scss: () => import("highlight.js/lib/languages/scss"),
  sql: () => import("highlight.js/lib/languages/sql"),
  swift: () => import("highlight.js/lib/languages/swift"),
  typescript: () => import("highlight.js/lib/languages/typescript"),
  xml: () => import("highlight.js/lib/languages/xml"),
  yaml: () => import("highlight.js/lib/languages/yaml"),
};

const ALIASES: Record<string, string> = {
  "c++": "cpp", cc: "cpp", h: "cpp", hpp: "cpp", "c#": "csharp", cs: "csharp", docker: "dockerfile", ex: "elixir", golang: "go",
  hs: "haskell", toml: "ini", conf: "ini", js: "javascript", jsx: "javascript", mjs: "javascript", jsonc: "json", jl: "julia",
  kt: "kotlin", tex: "latex", make: "makefile", md: "markdown", objc: "objectivec", pl: "perl", ps1: "powershell", pwsh: "powershell",
  py: "python", py3: "python", rb: "ruby", rs: "rust", sh: "bash", shell: "bash", zsh: "bash", console: "bash", ts: "typescript",
  tsx: "typescript", html: "xml", svg: "xml", vue: "xml", svelte: "xml", yml: "yaml", postgresql: "sql", mysql: "sql", sqlite: "sql",
}; // prettier-ignore

// Above this a page stands still for too long while it is coloured.
const MAX_CHARS = 60_000;

let engine: HLJSApi | null = null;
const loading = new Map<string, Promise<void>>();

/** highlight.js's name for what a fence says, or null where there are no colours for it. */
export function knownLanguage(name: string): string | null {
  const known = ALIASES[name] ?? name;
  return Object.hasOwn(LANGUAGES, known) ? known : null;
}

async function load(language: string): Promise<void> {
  const [{ default: core }, definition] = await Promise.all([import("highlight.js/lib/core"), LANGUAGES[language]?.()]);
  engine ??= core;
  if (definition) engine.registerLanguage(language, definition.default);
}

/** Colours the text of `code`: at once where the language is loaded, else as soon as it is. */
export function highlight(code: HTMLElement, name: string): void {
  const language = knownLanguage(name);
  const text = code.textContent;
  if (language === null || text.length > MAX_CHARS) return;
  if (engine?.getLanguage(language)) {
    code.replaceChildren(sanitise(engine.highlight(text, { language, ignoreIllegals: true }).value));
    return;
  }
  let loaded = loading.get(language);
  if (loaded === undefined) loading.set(language, (loaded = load(language)));
  loaded.then(
    () => highlight(code, language),
    // Plain code is still code. The next one tries to load again.
    () => loading.delete(language),
  );
}
