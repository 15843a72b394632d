-- First uses of idempotency keys: an update that comes again under the same key changes nothing.
CREATE TABLE idempotency_keys (
    app_id          uuid        NOT NULL,
    subscription_id uuid        NOT NULL,
    key             bytea       NOT NULL,
    body            bytea       NOT NULL,
    partition       smallint    NOT NULL,
    used_epoch      integer     NOT NULL,
    used_offset     bigint      NOT NULL,
    used_at         timestamptz NOT NULL,
    PRIMARY KEY (app_id, subscription_id, key)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Old ones are dropped by partition, because each partition is read at a pace of its own.
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (partition, used_at);

COMMENT ON COLUMN idempotency_keys.key IS 'Hash of the key, as the record has it.';
COMMENT ON COLUMN idempotency_keys.body IS 'Hash of the update it was used for.';
COMMENT ON COLUMN idempotency_keys.partition IS 'The Kafka partition of the app.';
COMMENT ON COLUMN idempotency_keys.used_offset IS 'Kafka offset of the update that had the effect.';
COMMENT ON COLUMN idempotency_keys.used_at IS 'Acceptance time of that update.';
