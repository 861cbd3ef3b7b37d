-- The columns of prooph/pdo-event-store, src/PersistenceStrategy/PostgresSingleStreamStrategy.php, commit
-- 005f670c4e03df65677869ec8a70024e575a0842; the table of the stream "event_stream".
CREATE TABLE "_4228e4a00331b5d5e751db0481828e22a2c3c8ef" (
  no bigserial PRIMARY KEY,
  event_id uuid NOT NULL UNIQUE,
  event_name varchar(100) NOT NULL,
  payload json NOT NULL,
  metadata jsonb NOT NULL,
  created_at timestamp(6) NOT NULL
);
