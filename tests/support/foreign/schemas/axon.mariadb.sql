-- The columns of AxonFramework/AxonFramework, messaging/src/main/java/org/axonframework/eventhandling/
-- AbstractSequencedDomainEventEntry.java, AbstractDomainEventEntry.java and AbstractEventEntry.java, commits
-- 36e58b5ed28a1b1dc155a87b7437168546ff08b3 and 002eb46b44914ab8b69ad667995e77251024761f; as Hibernate makes them.
CREATE TABLE domain_event_entry (
  global_index bigint PRIMARY KEY,
  event_identifier varchar(255) NOT NULL UNIQUE,
  meta_data longblob,
  payload longblob NOT NULL,
  payload_revision varchar(255),
  payload_type varchar(255) NOT NULL,
  time_stamp varchar(255) NOT NULL,
  aggregate_identifier varchar(255) NOT NULL,
  sequence_number bigint NOT NULL,
  type varchar(255),
  UNIQUE (aggregate_identifier, sequence_number)
);
