-- The columns of spatie/laravel-event-sourcing, database/migrations/create_stored_events_table.php.stub, commit
-- 12f355454cd5cc0e7b9c4ee715e805fafac8c1b7, as Laravel makes them.
CREATE TABLE stored_events (
  id integer PRIMARY KEY AUTOINCREMENT NOT NULL,
  aggregate_uuid varchar,
  aggregate_version integer,
  event_version integer NOT NULL DEFAULT 1,
  event_class varchar NOT NULL,
  event_properties text NOT NULL,
  meta_data text NOT NULL,
  created_at datetime NOT NULL,
  UNIQUE (aggregate_uuid, aggregate_version)
);
