-- The columns of JasperFx/marten, src/Marten/Events/Schema/EventsTable.cs and QuickAppendEventFunction.cs, commits
-- 051ce40edb4b395b7eedcea82b0798773cd3596e and 0c0b2bad4f1d7c9419a64ebaafc0bc52cd576ec1; with streams by text and every
-- optional column but the tags.
CREATE SEQUENCE mt_events_sequence;
CREATE TABLE mt_events (
  seq_id bigint PRIMARY KEY,
  id uuid NOT NULL UNIQUE,
  stream_id varchar,
  version bigint NOT NULL,
  data jsonb NOT NULL,
  type varchar(500) NOT NULL,
  "timestamp" timestamptz NOT NULL DEFAULT now(),
  tenant_id varchar DEFAULT '*DEFAULT*',
  mt_dotnet_type varchar,
  correlation_id varchar,
  causation_id varchar,
  headers jsonb,
  bdata bytea,
  is_archived boolean DEFAULT false,
  UNIQUE (stream_id, tenant_id, version)
);
