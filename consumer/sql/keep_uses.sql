-- Goes before the statement that applies changes: keeps first uses of keys beside what applies.
WITH kept AS (
    INSERT INTO idempotency_keys (
        app_id, subscription_id, key, body, partition, used_epoch, used_offset, used_at
    )
    SELECT
        use.app_id, use.subscription_id, use.key, use.body, use.partition,
        $10::integer, use.used_offset, to_timestamp(use.used_ms / 1000.0)
    FROM unnest(
        $12::uuid[], $13::uuid[], $14::bytea[], $15::bytea[], $16::smallint[],
        $17::bigint[], $18::bigint[], $19::bigint[]
    ) AS use (
        app_id, subscription_id, key, body, partition, used_offset, used_ms, first_offset
    )
    LEFT JOIN subscriptions AS row
        ON row.app_id = use.app_id AND row.subscription_id = use.subscription_id
    WHERE coalesce(
        (row.applied_epoch, row.applied_offset) < ($10::integer, use.first_offset), $11::boolean
    )
    ON CONFLICT (app_id, subscription_id, key) DO UPDATE SET
        body = excluded.body,
        used_epoch = excluded.used_epoch,
        used_offset = excluded.used_offset,
        used_at = excluded.used_at
)
