-- Which changes hold JSON that Postgres does not take: their places from 1, and the SQLSTATE that
-- it would answer. Each column comes as one text, a line for each change, `null` where it has none.
-- Most are valid, and to say only that costs two thirds of saying what is wrong.
SELECT
    place,
    coalesce(
        (pg_input_error_info(tags, 'jsonb')).sql_error_code,
        (pg_input_error_info(increment_tags, 'jsonb')).sql_error_code,
        (pg_input_error_info(properties, 'jsonb')).sql_error_code,
        (pg_input_error_info(increment, 'jsonb')).sql_error_code
    ) AS sqlstate
FROM unnest(
    string_to_array($1, E'\n', 'null'), string_to_array($2, E'\n', 'null'),
    string_to_array($3, E'\n', 'null'), string_to_array($4, E'\n', 'null')
) WITH ORDINALITY AS change (tags, increment_tags, properties, increment, place)
WHERE NOT (
    coalesce(pg_input_is_valid(tags, 'jsonb'), true)
    AND coalesce(pg_input_is_valid(increment_tags, 'jsonb'), true)
    AND coalesce(pg_input_is_valid(properties, 'jsonb'), true)
    AND coalesce(pg_input_is_valid(increment, 'jsonb'), true)
)
