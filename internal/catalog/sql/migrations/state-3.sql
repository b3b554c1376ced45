-- Skips of runs, addresses of mailboxes, journal addresses, sources of tokens.
ALTER TABLE failures ADD COLUMN rule INTEGER NOT NULL DEFAULT 0;

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
