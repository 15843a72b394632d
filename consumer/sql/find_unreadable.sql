-- Which changes hold JSON that Postgres does not take: their places from 1, and the SQLSTATE that
-- it would answer. Each column comes as one text, a line for each change, empty where there is none.
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
    FROM unnest(
        string_to_array($1, E'\n', ''), string_to_array($2, E'\n', ''),
        string_to_array($3, E'\n', ''), string_to_array($4, E'\n', '')
    ) WITH ORDINALITY AS change (tags, increment_tags, properties, increment, place)
) AS judged
WHERE sqlstate IS NOT NULL
