-- The columns of RailsEventStore/rails_event_store, ruby_event_store-active_record/lib/ruby_event_store/active_record/
-- generators/templates/create_event_store_events_template.erb, commit 7683c45ce16278b9bab5766537f1be6e6855b7fc; data of
-- the type binary, the default.
CREATE TABLE event_store_events (
  id integer PRIMARY KEY AUTOINCREMENT NOT NULL,
  event_id varchar(36) NOT NULL UNIQUE,
  event_type varchar NOT NULL,
  metadata blob,
  data blob NOT NULL,
  created_at datetime(6) NOT NULL,
  valid_at datetime(6)
);
CREATE TABLE event_store_events_in_streams (
  id integer PRIMARY KEY AUTOINCREMENT NOT NULL,
  stream varchar NOT NULL,
  position integer,
  event_id varchar(36) NOT NULL REFERENCES event_store_events (event_id),
  created_at datetime(6) NOT NULL,
  UNIQUE (stream, position),
  UNIQUE (stream, event_id)
);
