-- Which changes would give their rows too many tags, by their places from 1; waits for nobody. What
-- a change says that holds unreadable JSON, or would not apply, is left out. JSON comes as one text
-- for each column, a line for each change, `null` where there is none.
SELECT change.place
FROM unnest(
    $1::text::uuid[], $2::text::uuid[], $3::text::bigint[],
    string_to_array($4, E'\n', 'null'), string_to_array($5, E'\n', 'null')
) WITH ORDINALITY AS change (app_id, subscription_id, first_offset, tags, increment_tags, place)
LEFT JOIN subscriptions AS row USING (app_id, subscription_id)
WHERE CASE
    WHEN NOT coalesce(
        (row.applied_epoch, row.applied_offset) < ($6::integer, change.first_offset), $7::boolean
    ) THEN false
    -- Most are far below: each tag takes eight bytes of a row at least, and five of a change's JSON.
    WHEN pg_column_compression(row.tags) IS NULL AND coalesce(pg_column_size(row.tags), 0) / 8
        + octet_length(coalesce(change.tags, '') || coalesce(change.increment_tags, '')) / 5 <= 200
        THEN false
    WHEN NOT pg_input_is_valid(coalesce(change.tags, '{}'), 'jsonb')
        OR NOT pg_input_is_valid(coalesce(change.increment_tags, '{}'), 'jsonb') THEN false
    ELSE (
        SELECT pg_column_size(tags) >= 1600 AND jsonb_member_count(tags) > 200
        FROM jsonb_strip_nulls(
            coalesce(row.tags, '{}')
            || coalesce(change.tags, '{}')::jsonb
            || coalesce(change.increment_tags, '{}')::jsonb
        ) AS tags
    )
END
