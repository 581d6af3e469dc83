CREATE TABLE people (
    id TEXT PRIMARY KEY,
    -- NULL once the person is erased.
    name TEXT,
    -- The name in lower case: names differ in more than case.
    name_key TEXT UNIQUE,
    role TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    is_disabled INTEGER NOT NULL DEFAULT 0,
    is_erased INTEGER NOT NULL DEFAULT 0,
    -- A PHC string of argon2id.
    password TEXT,
    -- The key that seals the person's comments.
    seal_key BLOB,
    revision INTEGER NOT NULL DEFAULT 1
) STRICT;

CREATE TABLE sessions (
    hash BLOB PRIMARY KEY,
    person TEXT NOT NULL REFERENCES people (id),
    csrf TEXT NOT NULL,
    used_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_of ON sessions (person);

-- Addresses at which a person signed in: wrong passwords from elsewhere do not lock the person out there.
CREATE TABLE addresses (
    person TEXT NOT NULL REFERENCES people (id),
    address TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (person, address)
) STRICT;

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL,
    person TEXT NOT NULL REFERENCES people (id),
    name TEXT NOT NULL,
    -- JSON lists.
    scope TEXT NOT NULL,
    experiments TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT;
CREATE INDEX tokens_of ON tokens (person);

-- Personal links, invitations, and the link of the first admin (without a person).
CREATE TABLE links (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    person TEXT REFERENCES people (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE shares (
    experiment TEXT NOT NULL,
    person TEXT NOT NULL REFERENCES people (id),
    access TEXT NOT NULL,
    PRIMARY KEY (experiment, person)
) STRICT;
CREATE INDEX shares_of ON shares (person);

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    person TEXT,
    via TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    request_id TEXT NOT NULL,
    outcome TEXT NOT NULL
) STRICT;
CREATE INDEX audit_of ON audit (person);

CREATE TABLE requests (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    -- Hash of method, path and body.
    request BLOB NOT NULL,
    at INTEGER NOT NULL,
    -- NULL while the request is in progress.
    status INTEGER,
    content_type TEXT,
    body BLOB,
    PRIMARY KEY (owner, key)
) STRICT;

CREATE TABLE webhooks (
    id TEXT PRIMARY KEY,
    owner TEXT REFERENCES people (id),
    url TEXT NOT NULL,
    -- A JSON list.
    events TEXT NOT NULL,
    experiment TEXT,
    secret TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    -- Names the event: it is delivered once to each subscription.
    event_key TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'due',
    reason TEXT,
    UNIQUE (webhook, event_key)
) STRICT;
CREATE INDEX deliveries_due ON deliveries (state, due_at);
