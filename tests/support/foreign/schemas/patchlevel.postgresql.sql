-- The columns of patchlevel/event-sourcing, src/Store/DoctrineDbalStore.php, commit
-- 849ab0ba9dd79051a6ea93a9f60dfbf1bd99e82a, as Doctrine makes them.
CREATE TABLE eventstore (
  id bigserial PRIMARY KEY,
  aggregate varchar(255) NOT NULL,
  aggregate_id varchar(36) NOT NULL,
  playhead integer NOT NULL,
  event varchar(255) NOT NULL,
  payload json NOT NULL,
  recorded_on timestamptz(0) NOT NULL,
  new_stream_start boolean NOT NULL DEFAULT false,
  archived boolean NOT NULL DEFAULT false,
  custom_headers json NOT NULL,
  UNIQUE (aggregate, aggregate_id, playhead)
);
