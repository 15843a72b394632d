-- First uses of keys, of those asked for that were used.
SELECT
    app_id, subscription_id, key, body, used_epoch, used_offset,
    (extract(epoch FROM used_at) * 1000)::bigint AS used_ms
FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS wanted (app_id, subscription_id, key)
JOIN idempotency_keys USING (app_id, subscription_id, key)
