-- The columns of commanded/eventstore, lib/event_store/sql/init.ex, commit 04c8bf76285de6e0a021372141e3007332d0ca4c;
-- column_data_type: bytea.
CREATE TABLE streams (
  stream_id bigserial PRIMARY KEY,
  stream_uuid text NOT NULL UNIQUE,
  stream_version bigint NOT NULL DEFAULT 0,
  stream_origin bigint NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz
);
CREATE TABLE events (
  event_id uuid PRIMARY KEY,
  event_type text NOT NULL,
  causation_id uuid,
  correlation_id uuid,
  data bytea NOT NULL,
  metadata bytea,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE stream_events (
  event_id uuid NOT NULL REFERENCES events (event_id),
  stream_id bigint NOT NULL REFERENCES streams (stream_id),
  stream_version bigint NOT NULL,
  original_stream_id bigint REFERENCES streams (stream_id),
  original_stream_version bigint,
  PRIMARY KEY (event_id, stream_id)
);
CREATE UNIQUE INDEX ix_stream_events ON stream_events (stream_id, stream_version);
INSERT INTO streams (stream_id, stream_uuid, stream_version) VALUES (0, '$all', 0);
