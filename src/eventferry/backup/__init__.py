"""Backups: a store's events as a chain of parts and manifests in a folder or an object storage, read by anything that
reads zstd and JSON. docs/backup-format.md describes the format."""
