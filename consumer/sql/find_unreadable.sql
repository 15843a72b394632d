-- Which changes hold JSON that Postgres does not take: their places from 1, and the SQLSTATE that
-- it would answer.
SELECT place, sqlstate
FROM (
    SELECT
        place,
        coalesce(
            (pg_input_error_info(tags, 'jsonb')).sql_error_code,
            (pg_input_error_info(increment_tags, 'jsonb')).sql_error_code,
            (pg_input_error_info(properties, 'jsonb')).sql_error_code,
            (pg_input_error_info(increment, 'jsonb')).sql_error_code
        ) AS sqlstate
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
        WITH ORDINALITY AS change (tags, increment_tags, properties, increment, place)
) AS judged
WHERE sqlstate IS NOT NULL
