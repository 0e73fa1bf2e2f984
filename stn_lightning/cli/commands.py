"""The commands of `stn`. This module imports nothing."""

COMMANDS = {
    "fit": (
        "cli.training:fit",
        "train and test the best checkpoint; resumes a run that was stopped",
    ),
    "validate": ("cli.training:validate", "evaluate a run on the validation images"),
    "test": ("cli.training:test", "evaluate a run on the test images and write results.json"),
    "predict": (
        "analysis.predict:predict",
        "predict label, probability and crop of your own images",
    ),
    "export": (
        "analysis.export:export",
        "write a run's network as safetensors, torch.export and ONNX",
    ),
    "report": ("analysis.report:report", "write a page about runs: curves, crops, errors"),
    "demo": (
        "analysis.demo:demo",
        "open a page on which you draw, and see what the transformer crops",
    ),
    "zoo": ("analysis.zoo:zoo", "list the trained networks that come with the package"),
    "tune": ("cli.tune:tune", "suggest a learning rate or a batch size"),
    "sweep": ("launch.sweep:sweep", "search for better settings by the validation error"),
    "prepare": ("cli.prepare:prepare", "download and check data sets (mnist, cub, svhn)"),
    "table": ("launch.table:table", "train the missing runs of a table of the paper, and print it"),
    "submit": ("launch.submit:submit", "train as a job of a SLURM cluster"),
    "status": ("launch.status:status", "show the progress of runs"),
    "completion": ("cli.completion:completion", "print a script that completes words in a shell"),
}
"""By command: module and function that run it, and a line of help."""
