-- Removes some of the first uses that are older than their partition still has to know.
DELETE FROM idempotency_keys
WHERE ctid = ANY (ARRAY(
    SELECT known.ctid
    FROM unnest($1::smallint[], $2::bigint[]) AS old (partition, before_ms)
    JOIN idempotency_keys AS known
        ON known.partition = old.partition
        AND known.used_at < to_timestamp(old.before_ms / 1000.0)
    LIMIT $3
    FOR UPDATE OF known SKIP LOCKED
))
