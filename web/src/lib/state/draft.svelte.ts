/** What is being written: the text, kept by the browser until it is sent, and the files that go with it. */

import { api, uploadFile, type FileInfo } from "../api";
import { formatBytes, t } from "../i18n";
import { reasonOf } from "../reason";

export type Upload = {
  key: number;
  name: string;
  /** What was sent, 0 to 1. */
  share: number;
  info: FileInfo | null;
  problem: string | null;
};

export type Taken = { chatId: string; text: string; files: string[] };

const STORE = "samovar.draft.";
// The browser keeps five million characters for a site; a longer draft is kept in the page alone.
const MAX_STORED = 200_000;

export class Draft {
  text = $state("");
  uploads = $state.raw<Upload[]>([]);
  isUploading = $derived(this.uploads.some(({ info, problem }) => info === null && problem === null));
  files = $derived(this.uploads.flatMap(({ info }) => (info ? [info] : [])));
  isEmpty = $derived(this.text.trim() === "" && this.files.length === 0);
  #chatId = "";
  #next = 0;
  #aborts = new Map<number, AbortController>();

  /** Goes to the draft of a chat; an empty id is the chat that is not made yet. */
  open(chatId: string): void {
    this.#chatId = chatId;
    this.text = localStorage.getItem(STORE + chatId) ?? "";
    for (const { key } of this.uploads) this.remove(key);
  }

  keep(): void {
    this.leave(this.#chatId, this.text);
  }

  /** Leaves a text for another chat, to be found there when it is opened. */
  leave(chatId: string, text: string): void {
    if (text === "" || text.length > MAX_STORED) localStorage.removeItem(STORE + chatId);
    else localStorage.setItem(STORE + chatId, text);
  }

  /** What is to be sent, for `forget` to know it by. */
  take(): Taken {
    return { chatId: this.#chatId, text: this.text, files: this.files.map(({ id }) => id) };
  }

  /** Forgets what was sent to `chatId`, but nothing that was written or opened since. */
  forget(taken: Taken, chatId: string): void {
    if (localStorage.getItem(STORE + taken.chatId) === taken.text) localStorage.removeItem(STORE + taken.chatId);
    if (this.#chatId !== taken.chatId) return;
    // What was written meanwhile goes on in the chat that was just made.
    localStorage.removeItem(STORE + taken.chatId);
    this.#chatId = chatId;
    if (this.text === taken.text) this.text = "";
    this.uploads = this.uploads.filter(({ info }) => info === null || !taken.files.includes(info.id));
    this.keep();
  }

  add(files: Iterable<File>, maxBytes: number): void {
    for (const file of files) {
      const upload: Upload = { key: this.#next++, name: file.name, share: 0, info: null, problem: null };
      this.uploads = [...this.uploads, upload];
      if (file.size > maxBytes) {
        const sizes = { size: formatBytes(file.size), limit: formatBytes(maxBytes) };
        this.#set(upload.key, { problem: t("composer.file_too_large", sizes) });
      } else void this.#upload(upload.key, file);
    }
  }

  async #upload(key: number, file: File): Promise<void> {
    const abort = new AbortController();
    this.#aborts.set(key, abort);
    try {
      const info = await uploadFile(file, (share) => this.#set(key, { share }), abort.signal);
      this.#set(key, { info, share: 1 });
    } catch (error) {
      this.#set(key, { problem: reasonOf(error) });
    } finally {
      this.#aborts.delete(key);
    }
  }

  remove(key: number): void {
    const upload = this.uploads.find((one) => one.key === key);
    this.uploads = this.uploads.filter((one) => one.key !== key);
    this.#aborts.get(key)?.abort(new Error("removed"));
    // The server also drops files that no message took; a failure here is no news to anyone.
    if (upload?.info) void api.deleteFile(upload.info.id).catch(() => undefined);
  }

  #set(key: number, change: Partial<Upload>): void {
    this.uploads = this.uploads.map((upload) => (upload.key === key ? { ...upload, ...change } : upload));
  }
}
