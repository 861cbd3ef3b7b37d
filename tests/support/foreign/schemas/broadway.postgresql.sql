-- The columns of broadway/event-store-dbal, src/DBALEventStore.php, commit 02c03e71ed1be25d755cb496d18898a7ec440e43, as
-- Doctrine makes them.
CREATE TABLE events (
  id serial PRIMARY KEY,
  uuid uuid NOT NULL,
  playhead integer NOT NULL,
  payload text NOT NULL,
  metadata text NOT NULL,
  recorded_on varchar(32) NOT NULL,
  type text NOT NULL,
  UNIQUE (uuid, playhead)
);
