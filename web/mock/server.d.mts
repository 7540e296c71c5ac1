import type { Server } from "node:http";
import type { Chat, Message } from "../src/lib/api";

export const server: Server;
export const store: {
  chats: Map<string, Chat>;
  messages: Map<string, Message>;
  addLongChat(n: number): Chat;
  deleteMessage(message: Message): void;
  tellMessage(message: Message, event: string, data: unknown): void;
};
