-- Counts the members of a JSON object.
CREATE FUNCTION jsonb_member_count(object jsonb) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
RETURN (SELECT count(*) FROM jsonb_object_keys(object));

-- The row of a subscription, and the position of the last update applied to it.
CREATE TABLE subscriptions (
    app_id          uuid        NOT NULL,
    subscription_id uuid        NOT NULL,
    tags            jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(tags) = 'object'),
    properties      jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(properties) = 'object'),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL,
    applied_epoch   integer     NOT NULL,
    applied_offset  bigint      NOT NULL,
    PRIMARY KEY (app_id, subscription_id),
    -- More than 200 members take at least 8 bytes each: a small object need not be counted.
    CONSTRAINT too_many_tags CHECK (
        pg_column_size(tags) < 1600 OR jsonb_member_count(tags) <= 200
    )
) WITH (fillfactor = 70);  -- room on the page, so that updates stay on it (HOT)

COMMENT ON COLUMN subscriptions.updated_at IS 'Acceptance time of the last update applied.';
COMMENT ON COLUMN subscriptions.applied_epoch IS 'Topic epoch of the last update applied.';
COMMENT ON COLUMN subscriptions.applied_offset IS 'Kafka offset of the last update applied, in the partition of the app.';

-- Adds integers to members of a JSON object; what is missing or not a number starts from 0.
CREATE FUNCTION jsonb_increment(base jsonb, increments jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
RETURN base || (
    SELECT coalesce(
        jsonb_object_agg(
            key,
            amount::numeric
            + CASE WHEN jsonb_typeof(base -> key) = 'number' THEN (base ->> key)::numeric ELSE 0 END
        ),
        '{}'
    )
    FROM jsonb_each_text(increments) AS increment (key, amount)
);
