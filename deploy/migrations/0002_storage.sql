-- Little room on the page and frequent vacuuming keep updates on their page (HOT) and the table small.
-- It holds for pages written from now on; a VACUUM FULL or pg_repack would bring the rest.
ALTER TABLE subscriptions SET (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
