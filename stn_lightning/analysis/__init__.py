"""Use a trained run: predict, report, demo, export."""
