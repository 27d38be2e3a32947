CREATE TABLE definitions (
    tenant   TEXT   NOT NULL,
    kind     TEXT   NOT NULL,
    id       TEXT   NOT NULL,
    revision BIGINT NOT NULL,
    body     TEXT   NOT NULL,
    PRIMARY KEY (tenant, kind, id)
);

CREATE TABLE progress (
    tenant     TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    epoch      BIGINT NOT NULL,
    checkpoint TEXT   NOT NULL,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE memory (
    tenant     TEXT NOT NULL,
    connection TEXT NOT NULL,
    name       TEXT NOT NULL,
    content    TEXT NOT NULL,
    PRIMARY KEY (tenant, connection, name)
);

-- What all dead letters of a tenant weigh, kept beside them so that nobody has to add it up.
CREATE TABLE dead_letter_totals (
    tenant   TEXT   NOT NULL PRIMARY KEY,
    messages BIGINT NOT NULL,
    bytes    BIGINT NOT NULL,
    last_id  BIGINT NOT NULL
);

-- state: 0 kept, 1 to be sent again, 2 being sent again.
CREATE TABLE dead_letters (
    tenant     TEXT     NOT NULL,
    id         BIGINT   NOT NULL,
    rule       TEXT     NOT NULL,
    action     TEXT     NOT NULL,
    stream     TEXT     NOT NULL,
    subject    TEXT     NOT NULL,
    headers    TEXT     NOT NULL,
    qos        SMALLINT NOT NULL,
    retained   SMALLINT NOT NULL,
    message_id INTEGER  NOT NULL,
    arrived_ms BIGINT   NOT NULL,
    kind       TEXT     NOT NULL,
    code       TEXT     NOT NULL,
    reason     TEXT     NOT NULL,
    attempts   BIGINT   NOT NULL,
    at_ms      BIGINT   NOT NULL,
    state      SMALLINT NOT NULL,
    size       BIGINT   NOT NULL,
    payload    BLOB     NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE INDEX dead_letters_to_send ON dead_letters (tenant, rule, action, id) WHERE state = 1;
