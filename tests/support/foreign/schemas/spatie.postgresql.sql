-- The columns of spatie/laravel-event-sourcing, database/migrations/create_stored_events_table.php.stub, commit
-- 12f355454cd5cc0e7b9c4ee715e805fafac8c1b7, as Laravel makes them.
CREATE TABLE stored_events (
  id bigserial PRIMARY KEY,
  aggregate_uuid uuid,
  aggregate_version bigint,
  event_version smallint NOT NULL DEFAULT 1,
  event_class varchar(255) NOT NULL,
  event_properties jsonb NOT NULL,
  meta_data jsonb NOT NULL,
  created_at timestamp(0) NOT NULL,
  UNIQUE (aggregate_uuid, aggregate_version)
);
