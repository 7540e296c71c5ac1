/** A message in the page. While it is being written it follows the server, and is drawn at most once a frame. */

import { flushSync } from "svelte";
import { api, subscribe, type Delta, type Message, type Subscription } from "../api";
import { applyDelta } from "../fold";

// Drawing takes at most a third of the time: after a slow frame the next ones are left to the reader.
const FREE_SHARE = 2;
const QUICK_MS = 6;

export class LiveMessage {
  readonly id: string;
  value = $state.raw() as Message;
  /** When the first thought was seen here, by performance.now(): for the clock while the model thinks. */
  thinkingSince: number | null = null;
  #latest: Message;
  #stream: Subscription | null = null;
  #frame = 0;
  #notBefore = 0;

  constructor(message: Message) {
    this.id = message.id;
    this.value = this.#latest = message;
  }

  /** Takes over the whole message as the server told it. */
  set(message: Message): void {
    this.#latest = message;
    this.value = message;
  }

  /** Follows the answer to its end. `onDone` is called with the finished message, `onGone` when there is no such message. */
  follow(onDone: (message: Message) => void, onGone: () => void): void {
    if (this.#stream !== null) return;
    const stream = subscribe(`/messages/${encodeURIComponent(this.id)}/events`, {
      onEvent: ({ event, data }) => {
        if (event === "state") this.#take(JSON.parse(data) as Message);
        else if (event === "delta") this.#append(JSON.parse(data) as Delta);
        else if (event === "done") {
          this.unfollow();
          this.set(JSON.parse(data) as Message);
          onDone(this.value);
          return true;
        }
        return false;
      },
      onRefused: () => {
        this.unfollow();
        onGone();
      },
    });
    this.#stream = stream;
  }

  unfollow(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#stream?.close();
    this.#stream = null;
  }

  /** Asks the server how the message stands, without following it. */
  async stop(): Promise<void> {
    const { message } = await api.stop(this.id);
    if (this.#stream === null) this.set(message);
  }

  #append(delta: Delta): void {
    const next = applyDelta(this.#latest, delta);
    if (next === null) this.#stream?.restart();
    else this.#take(next);
  }

  #take(message: Message): void {
    if (message.thoughts && this.thinkingSince === null) this.thinkingSince = performance.now();
    this.#latest = message;
    if (this.#frame === 0) this.#frame = requestAnimationFrame(this.#draw);
  }

  #draw = (): void => {
    const start = performance.now();
    if (start < this.#notBefore) {
      this.#frame = requestAnimationFrame(this.#draw);
      return;
    }
    this.#frame = 0;
    flushSync(() => (this.value = this.#latest));
    const took = performance.now() - start;
    this.#notBefore = took > QUICK_MS ? start + took * (1 + FREE_SHARE) : 0;
  };
}
