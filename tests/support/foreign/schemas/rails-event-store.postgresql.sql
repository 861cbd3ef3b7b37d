-- The columns of RailsEventStore/rails_event_store, ruby_event_store-active_record/lib/ruby_event_store/active_record/
-- generators/templates/postgres/create_event_store_events_template.erb, commit 2608d4b42ff284108d435bcd9ddf4cadf36c3348;
-- data of the type binary, the default.
CREATE TABLE event_store_events (
  id bigserial PRIMARY KEY,
  event_id uuid NOT NULL UNIQUE,
  event_type varchar NOT NULL,
  metadata bytea,
  data bytea NOT NULL,
  created_at timestamp(6) NOT NULL,
  valid_at timestamp(6)
);
CREATE TABLE event_store_events_in_streams (
  id bigserial PRIMARY KEY,
  stream varchar NOT NULL,
  position integer,
  event_id uuid NOT NULL REFERENCES event_store_events (event_id),
  created_at timestamp(6) NOT NULL,
  UNIQUE (stream, position),
  UNIQUE (stream, event_id)
);
