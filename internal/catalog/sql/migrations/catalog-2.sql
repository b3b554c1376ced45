-- Where the records of deliveries lie.
CREATE TABLE envelopes (row INTEGER NOT NULL, key INTEGER NOT NULL, pack INTEGER NOT NULL, frame INTEGER NOT NULL, PRIMARY KEY (row, key)) WITHOUT ROWID;
