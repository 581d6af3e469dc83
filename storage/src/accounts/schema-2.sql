-- Sessions that a personal link opened end with it.
ALTER TABLE sessions ADD COLUMN link TEXT REFERENCES links (id) ON DELETE CASCADE;
CREATE INDEX sessions_of_link ON sessions (link);
CREATE INDEX links_of ON links (person);

-- An experiment has one owner.
DELETE FROM shares WHERE access = 'owner' AND rowid NOT IN (
    SELECT max(rowid) FROM shares WHERE access = 'owner' GROUP BY experiment
);
CREATE UNIQUE INDEX one_owner ON shares (experiment) WHERE access = 'owner';

CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_object ON audit (object);
CREATE INDEX requests_at ON requests (at);

ALTER TABLE webhooks ADD COLUMN is_enabled INTEGER NOT NULL DEFAULT 1;
CREATE INDEX webhooks_of ON webhooks (owner);
