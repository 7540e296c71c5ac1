/** Every call of the interface, by name. Each may throw an ApiError. */

import { API, queryString, request } from "./request";
import type * as T from "./types";

const id = encodeURIComponent;
const get = <R>(path: string) => request<R>("GET", path);
const post = <R>(path: string, body: unknown = {}) => request<R>("POST", path, body);
const patch = <R>(path: string, body: unknown) => request<R>("PATCH", path, body);
const remove = (path: string) => request<undefined>("DELETE", path);

function form(file: Blob, name: string): FormData {
  const data = new FormData();
  data.append("file", file, name);
  return data;
}

export const api = {
  me: () => get<T.Me>("/me"),
  setup: (name: string, password: string, code: string) => post<T.Me>("/setup", { name, password, code }),
  login: (name: string, password: string) => post<T.Me>("/login", { name, password }),
  logout: () => post<undefined>("/logout"),
  changePassword: (old: string, replacement: string) => post<undefined>("/password", { old, new: replacement }),

  users: () => get<{ users: T.User[] }>("/users"),
  addUser: (user: { name: string; password: string; is_admin: boolean }) => post<T.User>("/users", user),
  changeUser: (
    userId: string,
    change: { name?: string; password?: string; is_admin?: boolean; is_disabled?: boolean },
  ) => patch<T.User>(`/users/${id(userId)}`, change),
  deleteUser: (userId: string) => remove(`/users/${id(userId)}`),
  keys: () => get<{ keys: T.ApiKey[] }>("/keys"),
  addKey: (key: T.NewKey) => post<{ key: string }>("/keys", key),
  deleteKey: (name: string) => remove(`/keys/${id(name)}`),

  models: () => get<{ models: T.Model[]; default: string }>("/models"),

  chats: (query: T.ChatQuery = {}) => get<T.ChatPage>(`/chats${queryString(query)}`),
  addChat: (chat: T.ChatChange = {}) => post<T.Chat>("/chats", chat),
  chat: (chatId: string) => get<T.Chat>(`/chats/${id(chatId)}`),
  changeChat: (chatId: string, change: T.ChatChange) => patch<T.Chat>(`/chats/${id(chatId)}`, change),
  deleteChat: (chatId: string) => remove(`/chats/${id(chatId)}`),
  nameChat: (chatId: string) => post<{ title: string }>(`/chats/${id(chatId)}/title`),
  exportUrl: (chatId: string, form: T.ExportForm) => `${API}/chats/${id(chatId)}/export${queryString({ form })}`,

  messages: (chatId: string, page: { leaf?: string; before?: string; limit?: number } = {}) =>
    get<T.MessagePage>(`/chats/${id(chatId)}/messages${queryString(page)}`),
  walk: (chatId: string, messageId: string) =>
    post<{ leaf_id: string }>(`/chats/${id(chatId)}/walk`, { message_id: messageId }),
  send: (chatId: string, message: T.NewMessage) => post<T.Sent>(`/chats/${id(chatId)}/messages`, message),
  regenerate: (messageId: string, settings?: T.Settings) =>
    post<{ answer: T.Message }>(`/messages/${id(messageId)}/regenerate`, settings ? { settings } : {}),
  continueAnswer: (messageId: string) => post<{ answer: T.Message }>(`/messages/${id(messageId)}/continue`),
  stop: (messageId: string) => post<{ message: T.Message }>(`/messages/${id(messageId)}/stop`),
  deleteMessage: (messageId: string) => remove(`/messages/${id(messageId)}`),

  deleteFile: (fileId: string) => remove(`/files/${id(fileId)}`),
  fileTextUrl: (fileId: string) => `${API}/files/${id(fileId)}/text`,
  fileImageUrl: (fileId: string) => `${API}/files/${id(fileId)}/image`,

  backupUrl: `${API}/backup`,
  restore: (file: File) => post<T.Imported>("/restore", form(file, file.name)),
  import: (file: File) => post<T.Imported>("/import", form(file, file.name)),

  presets: () => get<{ presets: T.Preset[] }>("/presets"),
  addPreset: (preset: Omit<T.Preset, "id">) => post<T.Preset>("/presets", preset),
  changePreset: (presetId: string, change: Partial<Omit<T.Preset, "id">>) =>
    patch<T.Preset>(`/presets/${id(presetId)}`, change),
  deletePreset: (presetId: string) => remove(`/presets/${id(presetId)}`),

  preferences: () => get<T.Preferences>("/preferences"),
  setPreferences: (preferences: T.Preferences) => request<T.Preferences>("PUT", "/preferences", preferences),
  prices: () => get<T.Prices>("/prices"),
  setPrices: (prices: T.Prices) => request<T.Prices>("PUT", "/prices", prices),
  dashboard: () => get<T.Dashboard>("/dashboard"),
};
