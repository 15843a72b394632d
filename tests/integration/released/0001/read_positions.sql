-- Positions of rows, in the order asked for; NULL where there is no row.
SELECT row.applied_epoch, row.applied_offset
FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS wanted (app_id, subscription_id, place)
LEFT JOIN subscriptions AS row USING (app_id, subscription_id)
ORDER BY wanted.place
