-- The stations, and which journal each has now.
CREATE TABLE station (
    name          text PRIMARY KEY,
    journal_id    uuid,                    -- its journal; NULL before the first contact
    own_name      text,                    -- what the station calls itself
    version       text,                    -- of its daemon
    state         text,                    -- its state in the words of OPC 40100-1, or 'silent'
    last_seq      bigint,                  -- the last number that its journal has settled
    answered_at   timestamptz              -- when it last answered the archive
);

-- Every journal that was ever read. `cursor` and its verdicts are always written in one transaction.
CREATE TABLE journal (
    journal_id    uuid PRIMARY KEY,
    station       text NOT NULL,
    cursor        bigint NOT NULL DEFAULT 0,   -- every number up to this one is a verdict here, or is in `event` as void or gone
    note_cursor   bigint NOT NULL DEFAULT 0,
    change_cursor bigint NOT NULL DEFAULT 0,
    begun_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE verdict (
    journal_id    uuid NOT NULL,
    seq           bigint NOT NULL,
    station       text NOT NULL,
    camera        text NOT NULL,
    outcome       text NOT NULL,
    reason        text,
    part_id       text NOT NULL,
    score         double precision,
    threshold     double precision,
    recipe        text NOT NULL,
    engine        text NOT NULL,           -- product/version
    captured_at   timestamptz,
    committed_at  timestamptz NOT NULL,    -- by the station's clock
    total_ms      double precision,
    defects       integer NOT NULL,
    archived_at   timestamptz NOT NULL DEFAULT now(),   -- by the database's clock
    header        jsonb NOT NULL,          -- the whole verdict as published
    PRIMARY KEY (journal_id, seq)
);
-- Rows are stored nearly in the order of both times: indexes of a few pages are enough.
CREATE INDEX verdict_by_commit ON verdict USING brin (committed_at) WITH (autosummarize = on);
CREATE INDEX verdict_by_archiving ON verdict USING brin (archived_at) WITH (autosummarize = on);

-- What people said about parts, and took back.
CREATE TABLE feedback (
    journal_id    uuid NOT NULL,
    number        bigint NOT NULL,
    change        bigint NOT NULL,
    seq           bigint NOT NULL,
    at            timestamptz NOT NULL,
    mark          text NOT NULL,
    comment       text NOT NULL,
    who           text NOT NULL,
    undoes        bigint,
    archived_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (journal_id, number)
);
CREATE INDEX feedback_by_part ON feedback (journal_id, seq);

-- Changes of thresholds, bundles and recipes, and pauses.
CREATE TABLE change (
    journal_id    uuid NOT NULL,
    number        bigint NOT NULL,
    station       text NOT NULL,
    at            timestamptz NOT NULL,
    kind          text NOT NULL,
    camera        text,
    old           text NOT NULL,
    new           text NOT NULL,
    who           text NOT NULL,
    why           text NOT NULL,
    archived_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (journal_id, number)
);

-- What happened to the archive itself: gaps, silence, replaced journals.
CREATE TABLE event (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL DEFAULT now(),
    station       text NOT NULL,
    kind          text NOT NULL,
    alarm         boolean NOT NULL,        -- somebody should look at it
    journal_id    uuid,
    first         bigint,                  -- the numbers concerned
    last          bigint,
    detail        text NOT NULL
);
CREATE INDEX event_by_time ON event (at);

-- Where days and shifts begin, for the views. The archive writes what its configuration says.
CREATE TABLE report_setting (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    time_zone     text NOT NULL DEFAULT 'UTC',
    shifts        time[] NOT NULL DEFAULT '{06:00,14:00,22:00}'
);
INSERT INTO report_setting DEFAULT VALUES;
