-- The columns of prooph/pdo-event-store, src/PersistenceStrategy/MySqlSingleStreamStrategy.php, commit
-- 012de2d4a0ced4b3d7a920176f02a2f1d42190a6; the table of the stream "event_stream".
CREATE TABLE `_4228e4a00331b5d5e751db0481828e22a2c3c8ef` (
  no bigint PRIMARY KEY AUTO_INCREMENT,
  event_id char(36) NOT NULL UNIQUE,
  event_name varchar(100) NOT NULL,
  payload json NOT NULL,
  metadata json NOT NULL,
  created_at datetime(6) NOT NULL,
  aggregate_version int unsigned GENERATED ALWAYS AS (JSON_EXTRACT(metadata, '$._aggregate_version')) STORED,
  aggregate_id char(36) GENERATED ALWAYS AS (JSON_UNQUOTE(JSON_EXTRACT(metadata, '$._aggregate_id'))) STORED,
  aggregate_type varchar(150) GENERATED ALWAYS AS (JSON_UNQUOTE(JSON_EXTRACT(metadata, '$._aggregate_type'))) STORED,
  UNIQUE (aggregate_type, aggregate_id, aggregate_version)
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
