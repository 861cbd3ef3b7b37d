-- The columns of patchlevel/event-sourcing, src/Store/StreamDoctrineDbalStore.php, commit
-- 849ab0ba9dd79051a6ea93a9f60dfbf1bd99e82a, as Doctrine makes them.
CREATE TABLE event_store (
  id bigserial PRIMARY KEY,
  stream varchar(255) NOT NULL,
  playhead integer,
  event varchar(255) NOT NULL,
  payload json NOT NULL,
  recorded_on timestamptz(0) NOT NULL,
  new_stream_start boolean NOT NULL DEFAULT false,
  archived boolean NOT NULL DEFAULT false,
  custom_headers json NOT NULL,
  UNIQUE (stream, playhead)
);
