-- Moves rows only forward: a change applies where the row's position is below its first offset.
-- A command tag that counts fewer rows than were sent says that some did not apply.
-- Each column comes as one text, since its sender would need more than twice the time for arrays.
-- The limit leaves nothing out: without it the planner takes any number of changes for a hundred.
MERGE INTO subscriptions AS row
USING (
    SELECT
        app_id, subscription_id, first_offset, last_offset, accepted_ms,
        nullif(tags, 'null') AS tags, nullif(increment_tags, 'null') AS increment_tags,
        nullif(properties, 'null') AS properties, nullif(increment, 'null') AS increment
    FROM ROWS FROM (
        unnest($1::text::uuid[]), unnest($2::text::uuid[]),
        unnest($3::text::bigint[]), unnest($4::text::bigint[]), unnest($5::text::bigint[]),
        jsonb_array_elements($6::jsonb), jsonb_array_elements($7::jsonb),
        jsonb_array_elements($8::jsonb), jsonb_array_elements($9::jsonb)
    ) AS sent (
        app_id, subscription_id, first_offset, last_offset, accepted_ms,
        tags, increment_tags, properties, increment
    )
    LIMIT cardinality($3::text::bigint[])
) AS change
ON row.app_id = change.app_id AND row.subscription_id = change.subscription_id
WHEN MATCHED AND (row.applied_epoch, row.applied_offset) < ($10::integer, change.first_offset) THEN
    UPDATE SET
        tags = CASE
            WHEN change.increment_tags IS NOT NULL
                THEN jsonb_strip_nulls(
                    jsonb_increment(row.tags || coalesce(change.tags, '{}'), change.increment_tags)
                )
            WHEN change.tags IS NOT NULL THEN jsonb_strip_nulls(row.tags || change.tags)
            ELSE row.tags
        END,
        properties = CASE
            WHEN change.increment IS NOT NULL
                THEN jsonb_strip_nulls(
                    jsonb_increment(row.properties || coalesce(change.properties, '{}'), change.increment)
                )
            WHEN change.properties IS NOT NULL
                THEN jsonb_strip_nulls(row.properties || change.properties)
            ELSE row.properties
        END,
        updated_at = to_timestamp(change.accepted_ms / 1000.0),
        applied_epoch = $10,
        applied_offset = change.last_offset
WHEN NOT MATCHED AND $11::boolean THEN
    INSERT (
        app_id, subscription_id, tags, properties, updated_at, applied_epoch, applied_offset
    ) VALUES (
        change.app_id,
        change.subscription_id,
        jsonb_strip_nulls(
            jsonb_increment(coalesce(change.tags, '{}'), coalesce(change.increment_tags, '{}'))
        ),
        jsonb_strip_nulls(
            jsonb_increment(coalesce(change.properties, '{}'), coalesce(change.increment, '{}'))
        ),
        to_timestamp(change.accepted_ms / 1000.0),
        $10,
        change.last_offset
    )
