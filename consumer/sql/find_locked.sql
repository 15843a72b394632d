-- Of each row asked for, in that order, whether somebody else's transaction holds it; waits for none.
-- The update of nothing takes the lock on the table that a write takes: where that cannot be had,
-- all rows are as good as locked, and this ends with the same time-out as a write does.
WITH as_a_write AS (UPDATE subscriptions SET applied_offset = applied_offset WHERE false),
wanted AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS asked (app_id, subscription_id, place)
),
free AS (
    SELECT row.app_id, row.subscription_id
    FROM subscriptions AS row
    JOIN wanted USING (app_id, subscription_id)
    FOR NO KEY UPDATE OF row SKIP LOCKED
)
SELECT row.app_id IS NOT NULL AND free.app_id IS NULL AS locked
FROM wanted
LEFT JOIN subscriptions AS row USING (app_id, subscription_id)
LEFT JOIN free USING (app_id, subscription_id)
ORDER BY wanted.place
