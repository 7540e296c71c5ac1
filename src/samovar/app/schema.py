"""The tables of the app's database, as steps that follow one another; `PRAGMA user_version` counts those that were taken.

Ids are random text, times whole milliseconds since 1970, columns that end in `_json` JSON text. `place` numbers rows in the
order of their making. The user `local` is whoever uses a server that only its own machine reaches.

A chat's messages are a tree by `parent_id`, which has no cascade: SQLite follows one only 1,000 rows deep, and chats are
deeper (`message_rows.delete_below` deletes branches). The foreign key is checked at the end of a transaction, so that the
messages of a chat may go, and come, in any order.

`messages_fts` holds the text of each message that is not being written, folded (`folding.folded`), in groups of three
characters, which finds words of all scripts. It has a copy of its own and does not depend on what folding was when a row
was written. `files_fts` is the same for the names and texts of files.
"""

from collections.abc import Sequence
from typing import Final

_FIRST: Final = """
CREATE TABLE users (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE, password_hash TEXT NOT NULL DEFAULT '',
    is_admin INTEGER NOT NULL DEFAULT 0, is_disabled INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL
) STRICT;
INSERT INTO users (id, name, is_admin, created_ms) VALUES ('local', 'local', 1, CAST(strftime('%s', 'now') AS INTEGER) * 1000);
CREATE TABLE sessions (
    token_hash TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_ms INTEGER NOT NULL, last_seen_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE TABLE chats (
    id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    title TEXT NOT NULL DEFAULT '', is_title_own INTEGER NOT NULL DEFAULT 0, folder TEXT,
    is_pinned INTEGER NOT NULL DEFAULT 0, is_archived INTEGER NOT NULL DEFAULT 0,
    system TEXT NOT NULL DEFAULT '', model TEXT, settings_json TEXT NOT NULL DEFAULT '{}', leaf_id TEXT,
    created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX chats_in_order ON chats (user_id, is_archived, is_pinned DESC, updated_ms DESC, id DESC);
CREATE TABLE messages (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    chat_id TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    parent_id TEXT REFERENCES messages (id) DEFERRABLE INITIALLY DEFERRED,
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
    content TEXT NOT NULL DEFAULT '', thoughts TEXT, tool_calls_json TEXT NOT NULL DEFAULT '[]', tool_call_id TEXT,
    status TEXT NOT NULL DEFAULT 'done'
        CHECK (status IN ('writing', 'done', 'length', 'stopped', 'failed', 'interrupted')),
    error TEXT, model TEXT, stats_json TEXT, settings_json TEXT, is_json_valid INTEGER, created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_by_chat ON messages (chat_id, parent_id);
CREATE INDEX messages_by_parent ON messages (parent_id);
CREATE INDEX messages_writing ON messages (chat_id) WHERE status = 'writing';
CREATE TABLE files (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    message_id TEXT REFERENCES messages (id) ON DELETE CASCADE,
    name TEXT NOT NULL, media_type TEXT NOT NULL, n_bytes INTEGER NOT NULL, text TEXT NOT NULL DEFAULT '',
    n_chars INTEGER NOT NULL DEFAULT 0, note TEXT, image BLOB, created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX files_by_message ON files (message_id);
CREATE INDEX files_by_user ON files (user_id);
CREATE TABLE presets (
    id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL, system TEXT NOT NULL DEFAULT '', model TEXT, settings_json TEXT NOT NULL DEFAULT '{}',
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX presets_by_user ON presets (user_id);
CREATE TABLE preferences (
    user_id TEXT PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE, value_json TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE TABLE shared (name TEXT PRIMARY KEY, value_json TEXT NOT NULL) STRICT;

CREATE VIRTUAL TABLE messages_fts USING fts5 (content, tokenize = 'trigram');
CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages WHEN new.status <> 'writing' BEGIN
    INSERT INTO messages_fts (rowid, content) VALUES (new.place, folded(new.content));
END;
CREATE TRIGGER messages_fts_update AFTER UPDATE OF content, status ON messages
    WHEN new.content IS NOT old.content OR new.status IS NOT old.status
BEGIN
    DELETE FROM messages_fts WHERE rowid = old.place;
    INSERT INTO messages_fts (rowid, content) SELECT new.place, folded(new.content) WHERE new.status <> 'writing';
END;
CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages BEGIN
    DELETE FROM messages_fts WHERE rowid = old.place;
END;
"""

_ERROR_CODES: Final = "ALTER TABLE messages ADD COLUMN error_code TEXT"

_FILES_FTS: Final = """
CREATE VIRTUAL TABLE files_fts USING fts5 (content, tokenize = 'trigram');
INSERT INTO files_fts (rowid, content) SELECT place, folded(name || ': ' || text) FROM files;
CREATE TRIGGER files_fts_insert AFTER INSERT ON files BEGIN
    INSERT INTO files_fts (rowid, content) VALUES (new.place, folded(new.name || ': ' || new.text));
END;
CREATE TRIGGER files_fts_delete AFTER DELETE ON files BEGIN
    DELETE FROM files_fts WHERE rowid = old.place;
END;
"""

MIGRATIONS: Final[Sequence[str]] = (_FIRST, _ERROR_CODES, _FILES_FTS)
