-- The columns of RailsEventStore/rails_event_store, ruby_event_store-active_record/lib/ruby_event_store/active_record/
-- generators/templates/mysql/create_event_store_events_template.erb, commit 010a2dc842d4ad571e758a81f8d142bf0718851e;
-- data of the type binary, the default.
CREATE TABLE event_store_events (
  id bigint PRIMARY KEY AUTO_INCREMENT,
  event_id varchar(36) NOT NULL UNIQUE,
  event_type varchar(255) NOT NULL,
  metadata blob,
  data blob NOT NULL,
  created_at datetime(6) NOT NULL,
  valid_at datetime(6)
);
CREATE TABLE event_store_events_in_streams (
  id bigint PRIMARY KEY AUTO_INCREMENT,
  stream varchar(255) NOT NULL,
  position integer,
  event_id varchar(36) NOT NULL REFERENCES event_store_events (event_id),
  created_at datetime(6) NOT NULL,
  UNIQUE (stream, position),
  UNIQUE (stream, event_id)
);
