"""Run folders, records, loading."""
