"""Archives: payloads of cold events leave the database for a backup repository, and come back. Positions, versions and
order stay. docs/archive.md says what that means for everything else."""
