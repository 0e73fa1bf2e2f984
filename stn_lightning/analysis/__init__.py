"""Use and inspect trained runs: predict, report, demo, export."""
