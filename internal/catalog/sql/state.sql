-- The newest shape of state.db. It is truth and part of every backup.
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE mailboxes (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE);

CREATE TABLE users (
	id INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE COLLATE NOCASE,
	display TEXT NOT NULL DEFAULT '',
	language TEXT NOT NULL DEFAULT '',
	zone TEXT NOT NULL DEFAULT 'UTC',
	password TEXT NOT NULL DEFAULT '', -- Argon2id in PHC form; '': none set
	failures INTEGER NOT NULL DEFAULT 0,
	failed INTEGER NOT NULL DEFAULT 0, -- of the last failure, seconds since 1970
	created INTEGER NOT NULL
);
CREATE TABLE roles (user INTEGER NOT NULL REFERENCES users(id), role TEXT NOT NULL, PRIMARY KEY (user, role)) WITHOUT ROWID;
CREATE TABLE owners (user INTEGER NOT NULL REFERENCES users(id), mailbox INTEGER NOT NULL REFERENCES mailboxes(id), PRIMARY KEY (user, mailbox)) WITHOUT ROWID;

CREATE TABLE sessions (
	token BLOB PRIMARY KEY, -- SHA-256 of the cookie
	user INTEGER NOT NULL REFERENCES users(id),
	created INTEGER NOT NULL,
	seen INTEGER NOT NULL,
	agent TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE links (
	token BLOB PRIMARY KEY, -- SHA-256 of the link's secret
	mailbox INTEGER NOT NULL,
	expires INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE secrets (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE runs (
	id INTEGER PRIMARY KEY,
	profile INTEGER NOT NULL DEFAULT 0, -- 0: an import
	what TEXT NOT NULL,   -- what is imported into where; a rerun has the same
	who TEXT NOT NULL DEFAULT '',
	state TEXT NOT NULL,  -- running, paused, done, partial, failed, cancelled
	started INTEGER NOT NULL,
	ended INTEGER NOT NULL DEFAULT 0,
	cursor TEXT NOT NULL DEFAULT '',
	seen INTEGER NOT NULL DEFAULT 0,
	archived INTEGER NOT NULL DEFAULT 0,
	present INTEGER NOT NULL DEFAULT 0,
	skipped INTEGER NOT NULL DEFAULT 0,
	failed INTEGER NOT NULL DEFAULT 0,
	bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_what ON runs (what);
CREATE TABLE failures (run INTEGER NOT NULL, place TEXT NOT NULL, reason TEXT NOT NULL, rule INTEGER NOT NULL DEFAULT 0); -- rule 1: skipped by rule, not failed
CREATE INDEX failures_run ON failures (run);
CREATE INDEX runs_profile ON runs (profile, id);
CREATE TABLE runlog (run INTEGER NOT NULL, time INTEGER NOT NULL, line TEXT NOT NULL);
CREATE INDEX runlog_run ON runlog (run);

CREATE TABLE profiles (
	id INTEGER PRIMARY KEY,
	kind TEXT NOT NULL, -- source, target
	name TEXT NOT NULL COLLATE NOCASE,
	spec TEXT NOT NULL, -- JSON, without secrets
	enabled INTEGER NOT NULL,
	created INTEGER NOT NULL,
	UNIQUE (kind, name)
);

-- How far each folder of a profile's source has been read.
CREATE TABLE marks (profile INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (profile, key)) WITHOUT ROWID;

-- Messages that could not be archived and are still at their source.
CREATE TABLE missed (
	profile INTEGER NOT NULL,
	place TEXT NOT NULL,
	folder TEXT NOT NULL,
	validity INTEGER NOT NULL,
	uid INTEGER NOT NULL,
	uidl TEXT NOT NULL,
	size INTEGER NOT NULL,
	reason TEXT NOT NULL,
	tries INTEGER NOT NULL,
	first INTEGER NOT NULL,
	last INTEGER NOT NULL,
	PRIMARY KEY (profile, place)
) WITHOUT ROWID;

-- Whose mail is addressed to whom: an address, or *@domain.
CREATE TABLE addresses (address TEXT PRIMARY KEY, domain TEXT NOT NULL, mailbox INTEGER NOT NULL REFERENCES mailboxes(id)) WITHOUT ROWID;
CREATE INDEX addresses_domain ON addresses (domain);
CREATE INDEX addresses_mailbox ON addresses (mailbox);

-- Addresses that mail servers send copies of mail to.
CREATE TABLE journals (address TEXT PRIMARY KEY COLLATE NOCASE, label TEXT NOT NULL, created INTEGER NOT NULL, secret BLOB NOT NULL DEFAULT x'') WITHOUT ROWID;

-- Where tokens for accounts come from; their secrets are in secrets.
CREATE TABLE tokens (
	id INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE COLLATE NOCASE,
	spec TEXT NOT NULL, -- JSON, without secrets
	created INTEGER NOT NULL
);
