-- The columns of patchlevel/event-sourcing, src/Store/StreamDoctrineDbalStore.php, commit
-- 849ab0ba9dd79051a6ea93a9f60dfbf1bd99e82a, as Doctrine makes them.
CREATE TABLE event_store (
  id integer PRIMARY KEY AUTOINCREMENT NOT NULL,
  stream varchar(255) NOT NULL,
  playhead integer,
  event varchar(255) NOT NULL,
  payload clob NOT NULL,
  recorded_on datetime NOT NULL,
  new_stream_start boolean NOT NULL DEFAULT 0,
  archived boolean NOT NULL DEFAULT 0,
  custom_headers clob NOT NULL,
  UNIQUE (stream, playhead)
);
