-- The last revision that a definition of a tenant was given. No two ever have the same one, so that a
-- condition on what is gone never fits what has come in its place.
CREATE TABLE revisions (
    tenant TEXT   NOT NULL PRIMARY KEY,
    last   BIGINT NOT NULL
);

INSERT INTO revisions (tenant, last) SELECT tenant, MAX(revision) FROM definitions GROUP BY tenant;
