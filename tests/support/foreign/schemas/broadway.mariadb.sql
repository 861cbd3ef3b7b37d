-- The columns of broadway/event-store-dbal, src/DBALEventStore.php, commit 02c03e71ed1be25d755cb496d18898a7ec440e43, as
-- Doctrine makes them.
CREATE TABLE events (
  id int PRIMARY KEY AUTO_INCREMENT,
  uuid char(36) NOT NULL,
  playhead int unsigned NOT NULL,
  payload longtext NOT NULL,
  metadata longtext NOT NULL,
  recorded_on varchar(32) NOT NULL,
  type longtext NOT NULL,
  UNIQUE (uuid, playhead)
) DEFAULT CHARSET = utf8mb4;
