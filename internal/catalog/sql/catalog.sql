-- The newest shape of catalog.db. It is a cache: `repair catalog` makes it
-- again from the packs.
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- row is seconds since 1970 << 24 | counter, given once and kept in the record.
CREATE TABLE messages (
	row INTEGER PRIMARY KEY,
	id BLOB NOT NULL,
	leaf INTEGER NOT NULL,
	pack INTEGER NOT NULL,
	frame INTEGER NOT NULL,
	size INTEGER NOT NULL,
	rule INTEGER NOT NULL,
	flags INTEGER NOT NULL,
	arrived INTEGER NOT NULL, -- seconds since 1970
	msgid INTEGER NOT NULL,   -- hash of the Message-ID; 0: none
	sender TEXT NOT NULL,
	recipients TEXT NOT NULL,
	subject TEXT NOT NULL
);
CREATE UNIQUE INDEX messages_id ON messages (id);
CREATE INDEX messages_msgid ON messages (msgid) WHERE msgid != 0;

-- The parts of messages that are objects of their own.
CREATE TABLE objects (id BLOB PRIMARY KEY, pack INTEGER NOT NULL, frame INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE folders (
	id INTEGER PRIMARY KEY,
	mailbox INTEGER NOT NULL,
	name TEXT NOT NULL,
	uidvalidity INTEGER NOT NULL,
	uidnext INTEGER NOT NULL,
	UNIQUE (mailbox, name)
);

CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- What else is known of an occurrence is in its record, at pack and frame.
CREATE TABLE occurrences (
	folder INTEGER NOT NULL,
	uid INTEGER NOT NULL,
	row INTEGER NOT NULL,
	pack INTEGER NOT NULL,
	frame INTEGER NOT NULL,
	modseq INTEGER NOT NULL,
	flags TEXT NOT NULL,
	PRIMARY KEY (folder, uid)
) WITHOUT ROWID;
CREATE INDEX occurrences_row ON occurrences (row, folder);

-- Where the records of deliveries lie.
CREATE TABLE envelopes (row INTEGER NOT NULL, key INTEGER NOT NULL, pack INTEGER NOT NULL, frame INTEGER NOT NULL, PRIMARY KEY (row, key)) WITHOUT ROWID;

-- Messages that the index must read again, in order of change.
CREATE TABLE queue (change INTEGER PRIMARY KEY, row INTEGER NOT NULL);

-- The last change that each year's shard of the index had.
CREATE TABLE shards (year INTEGER PRIMARY KEY, applied INTEGER NOT NULL);

CREATE TABLE acts (leaf INTEGER PRIMARY KEY, time INTEGER NOT NULL, detail TEXT NOT NULL);
