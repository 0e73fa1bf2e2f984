"""Start many runs: tables, sweeps and SLURM jobs."""
