-- The columns of SQLStreamStore/SQLStreamStore, src/SqlStreamStore.Postgres/PgSqlScripts/Tables.sql, commit
-- 12beb8b00b2dcd3bd697839a1ede2865b2e3d4c3.
CREATE TABLE streams (
  id char(42) NOT NULL UNIQUE,
  id_original varchar(1000) NOT NULL,
  id_internal serial PRIMARY KEY,
  version integer NOT NULL DEFAULT -1,
  position bigint NOT NULL DEFAULT -1,
  max_age integer,
  max_count integer
);
CREATE SEQUENCE messages_seq START 0 MINVALUE 0;
CREATE TABLE messages (
  stream_id_internal integer NOT NULL REFERENCES streams (id_internal),
  stream_version integer NOT NULL,
  position bigint PRIMARY KEY DEFAULT nextval('messages_seq'),
  message_id uuid NOT NULL,
  created_utc timestamp NOT NULL,
  type varchar(128) NOT NULL,
  json_data varchar NOT NULL,
  json_metadata varchar,
  UNIQUE (stream_id_internal, stream_version)
);
ALTER SEQUENCE messages_seq OWNED BY messages.position;
