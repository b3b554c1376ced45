-- Profiles, their marks and what they missed; logs of runs.
ALTER TABLE runs ADD COLUMN profile INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN who TEXT NOT NULL DEFAULT '';
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
