-- The columns of broadway/event-store-dbal, src/DBALEventStore.php, commit 02c03e71ed1be25d755cb496d18898a7ec440e43, as
-- Doctrine makes them.
CREATE TABLE events (
  id integer PRIMARY KEY AUTOINCREMENT NOT NULL,
  uuid char(36) NOT NULL,
  playhead integer unsigned NOT NULL,
  payload clob NOT NULL,
  metadata clob NOT NULL,
  recorded_on varchar(32) NOT NULL,
  type clob NOT NULL,
  UNIQUE (uuid, playhead)
);
