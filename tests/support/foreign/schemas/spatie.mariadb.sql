-- The columns of spatie/laravel-event-sourcing, database/migrations/create_stored_events_table.php.stub, commit
-- 12f355454cd5cc0e7b9c4ee715e805fafac8c1b7, as Laravel makes them.
CREATE TABLE stored_events (
  id bigint unsigned PRIMARY KEY AUTO_INCREMENT,
  aggregate_uuid char(36),
  aggregate_version bigint unsigned,
  event_version tinyint unsigned NOT NULL DEFAULT 1,
  event_class varchar(255) NOT NULL,
  event_properties json NOT NULL,
  meta_data json NOT NULL,
  created_at timestamp NOT NULL,
  UNIQUE (aggregate_uuid, aggregate_version)
);
