-- The columns of AxonFramework/AxonFramework, eventsourcing/src/main/java/org/axonframework/eventsourcing/eventstore/jpa/
-- AggregateEventEntry.java, commit 1afe4ecfac2413ade046b76588845f02b194c5b5; as Hibernate makes them with bytea.
CREATE SEQUENCE "aggregate-event-global-index-sequence";
CREATE TABLE aggregate_event_entry (
  global_index bigint PRIMARY KEY,
  aggregate_type varchar(255),
  aggregate_identifier varchar(255),
  aggregate_sequence_number bigint,
  type varchar(255) NOT NULL,
  version varchar(255) NOT NULL,
  "timestamp" varchar(255) NOT NULL,
  payload bytea NOT NULL,
  metadata bytea,
  identifier varchar(255) NOT NULL,
  UNIQUE (aggregate_identifier, aggregate_sequence_number)
);
