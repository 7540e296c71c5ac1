/** Why something failed, in words for people and in their language where the code of the failure is known. */

import english from "../locales/en.json";
import { ApiError } from "./api";
import { t, type Key } from "./i18n";

/** Of an error, or of whatever else was thrown. */
export function reasonOf(error: unknown): string {
  if (error instanceof ApiError) return reasonOfCode(error.code, error.message);
  return capital(error instanceof Error ? error.message : String(error));
}

/** The sentence for `code`, which may hold the server's own `message`; of a code without one, the message alone. */
export function reasonOfCode(code: string | null | undefined, message: string): string {
  const key = `error.${code}`;
  return Object.hasOwn(english, key) ? t(key as Key, { message: capital(message) }) : capital(message);
}

/** Servers begin in lower case, people with a capital. A path or a name in code stays as it is. */
export function capital(text: string): string {
  return text.replace(/^\p{Ll}(?=[\p{L}'’-]*[\s,])/u, (letter) => letter.toUpperCase());
}
