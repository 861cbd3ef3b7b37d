-- The columns of Eventuous/eventuous, src/Postgres/src/Eventuous.Postgresql/Scripts/1_Schema.sql, commit
-- d680a5e62c2d61916bc841f9be8efdb8d222c70f.
CREATE SCHEMA eventuous;
CREATE TABLE eventuous.streams (
  stream_name varchar(1000) NOT NULL UNIQUE,
  stream_id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  version integer NOT NULL DEFAULT -1
);
CREATE TABLE eventuous.messages (
  message_id uuid NOT NULL,
  message_type varchar NOT NULL,
  stream_id integer NOT NULL REFERENCES eventuous.streams,
  stream_position integer NOT NULL,
  global_position bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  json_data jsonb NOT NULL,
  json_metadata jsonb,
  created timestamp NOT NULL,
  UNIQUE (stream_id, stream_position),
  UNIQUE (stream_id, message_id)
);
