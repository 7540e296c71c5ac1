/** The interface between page and server: what `/app/api` takes and answers. Names are as on the wire. Times are milliseconds. */

export type User = { id: string; name: string; is_admin: boolean; is_disabled: boolean; created_ms: number };

/** What an administrator has to hear of. `path_name` is the file that was kept. */
export type ServerNotice = { code: string; message: string; path_name: string };

export type Me = {
  user: User | null;
  needs_login: boolean;
  needs_setup: boolean;
  version: string;
  limits: { file_bytes: number; message_chars: number };
  notice?: ServerNotice | null;
};

export type Mode = "auto" | "thinking" | "fast";

/** An absent key means the model's default. `tools` are in OpenAI's form. */
export type Settings = {
  mode?: Mode;
  thinking_budget?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  presence_penalty?: number;
  repetition_penalty?: number;
  max_tokens?: number;
  seed?: number;
  json_schema?: object;
  tools?: object[];
};

/** Null: not known before the model is opened. */
export type Model = {
  name: string;
  is_open: boolean;
  thinking: "none" | "choice" | "always" | null;
  max_context: number | null;
  takes_images: boolean;
  has_auto: boolean;
  defaults: Settings | null;
};

export type Chat = {
  id: string;
  title: string;
  folder: string | null;
  is_pinned: boolean;
  is_archived: boolean;
  system: string;
  model: string | null;
  settings: Settings;
  leaf_id: string | null;
  created_ms: number;
  updated_ms: number;
  n_messages: number;
  is_answering: boolean;
};

export type ChatChange = Partial<
  Pick<Chat, "title" | "folder" | "is_pinned" | "is_archived" | "system" | "model" | "settings" | "leaf_id">
>;

/** `snippet` marks what was found with U+0002 before and U+0003 after it. */
export type Hit = { chat_id: string; message_id: string | null; snippet: string };

export type ChatPage = { chats: Chat[]; next: string | null; hits?: Hit[]; folders: string[] };

export type ChatQuery = { query?: string; folder?: string; archived?: boolean; before?: string; limit?: number };

/** `note` says what was cut or could not be read. */
export type FileInfo = {
  id: string;
  name: string;
  media_type: string;
  n_bytes: number;
  n_chars: number;
  note: string | null;
};

export type ToolCall = { id: string; name: string; arguments: string };

export type Stats = {
  n_prompt: number | null;
  n_cached: number | null;
  n_completion: number | null;
  n_thinking: number | null;
  first_token_ms: number | null;
  thinking_ms: number | null;
  total_ms: number | null;
  tokens_per_s: number | null;
  max_context: number | null;
  seed: number | null;
};

/** `interrupted`: the server ended while the answer was being written. */
export type Status = "writing" | "done" | "length" | "stopped" | "failed" | "interrupted";

export type Message = {
  id: string;
  chat_id: string;
  parent_id: string | null;
  role: "user" | "assistant" | "tool";
  content: string;
  thoughts: string | null;
  tool_calls: ToolCall[];
  tool_call_id: string | null;
  files: FileInfo[];
  status: Status;
  /** Why it is not whole, in the server's words, and as a code that stays. */
  error: string | null;
  error_code?: string | null;
  model: string | null;
  stats: Stats | null;
  settings: Settings | null;
  is_json_valid: boolean | null;
  siblings: string[];
  created_ms: number;
};

/** Messages of one path through the tree, oldest first. `n_path` counts the whole path. */
export type MessagePage = { messages: Message[]; has_more: boolean; n_path: number };

export type NewMessage = {
  parent_id: string | null;
  content: string;
  role?: "user" | "tool";
  tool_call_id?: string;
  files?: string[];
  settings?: Settings;
  answer?: boolean;
};

export type Sent = { message: Message; answer: Message | null };

/** Text to append. `at_*` are the lengths before it, in UTF-16 units as JavaScript counts. */
export type Delta = {
  content?: string;
  thoughts?: string;
  tool_calls?: ToolCall[];
  at_content: number;
  at_thoughts: number;
};

export type MessageChange = { chat_id: string; message_id: string; status: Status };

/** A key of the API. Null is no limit, or no end. */
export type ApiKey = {
  id: string;
  name: string;
  created_ms: number;
  expires_ms: number | null;
  is_admin: boolean;
  requests_per_minute: number | null;
  tokens_per_minute: number | null;
  max_streams: number | null;
};

export type NewKey = { name: string; is_admin?: boolean; days?: number; requests_per_minute?: number };

export type Preset = { id: string; name: string; system: string; model: string | null; settings: Settings };

export type Theme = "system" | "light" | "dark";

export type Preferences = { locale?: string; theme?: Theme; price_model?: string; [key: string]: unknown };

export type Price = { name: string; input: number; cached_input: number; output: number };

/** Prices are per million tokens. `note` is a sentence of whoever wrote them, in their language. */
export type Prices = {
  note?: string;
  date: string;
  currency: string;
  models: Price[];
  watts: number | null;
  price_per_kwh: number | null;
};

export type DashboardPoint = {
  t_ms: number;
  n_running: number;
  n_waiting: number;
  tokens_per_s: number;
  cache_hit_share: number;
  cpu_share: number;
  memory_bytes: number;
};

export type Dashboard = {
  now_ms: number;
  series: DashboardPoint[];
  models: { name: string; is_open: boolean; n_running: number; memory_bytes: number }[];
  totals: { n_requests: number; n_prompt: number; n_cached: number; n_completion: number };
};

export type Imported = { n_chats: number; n_messages: number; skipped: { title: string; why: string }[] };

export type ExportForm = "markdown" | "json" | "curl" | "python";
