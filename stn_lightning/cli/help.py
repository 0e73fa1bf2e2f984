"""Short help of `stn fit`, `validate` and `test`."""

import inspect
import itertools
from types import ModuleType

from stn_lightning import backbones, datamodules, distortions, synthetic, tasks, transformers
from stn_lightning.cli.parsing import OPTIONS

WHAT = {
    "fit": "Train a run and test its best checkpoint",
    "validate": "Evaluate a run on the validation images",
    "test": "Evaluate a run on the test images",
}
TRAINER = {
    "max_epochs N": "length of the training in epochs",
    "max_steps N": "length of the training in optimizer steps",
    "accelerator NAME": "auto, cpu or gpu",
    "devices N": "processes, one for each GPU",
    "precision NAME": "32-true, bf16-mixed, 16-mixed, ...",
    "gradient_clip_val X": "clip the norm of the gradient to X",
    "accumulate_grad_batches N": "batches for each optimizer step",
    "check_val_every_n_epoch N": "epochs between validations",
    "limit_train_batches N": "batches of an epoch: a number, or a fraction such as 0.1",
    "log_every_n_steps N": "steps between two points of a curve",
    "fast_dev_run": "run one batch of each stage, as a check",
}
"""The Trainer's options that are used most."""
CLASSES: dict[str, tuple[tuple[ModuleType, ...], str]] = {
    "data modules (--data CLASS)": ((datamodules, synthetic), "DataModule"),
    "tasks (--model CLASS)": ((tasks,), "Task"),
    "backbones (--model.init_args.backbone)": ((backbones,), ""),
    "transformers (--model.init_args.transformer)": ((transformers,), "Transformer"),
    "distortions (--data.init_args.distortion)": ((distortions,), ""),
}
NOT_LISTED = ("CounterRandom", "FeatureExtractor")
"""Public classes that are no values of these options."""


def answer_help(arguments: list[str]) -> bool:
    """Print the short help if `arguments` ask for it.

    `--help all` is changed to `--help`, at which the parser prints all options.

    Returns:
        whether the short help was printed.
    """
    command, *words = arguments
    if command not in WHAT:
        return False
    following = dict(itertools.pairwise([*words, "--"]))
    for option in ("--help", "-h"):
        if following.get(option) == "all":
            arguments.remove("all")
            return False
        if option in following:
            print(short_help(command))
            return True
    for option, kind in {"--data.help": "data", "--model.help": "tasks"}.items():
        if following.get(option, "").startswith("-"):
            (name,) = (name for name in CLASSES if name.startswith(kind))
            print("\n".join(_listing(name)))
            print(f"\n{option} CLASS lists the arguments of one.")
            return True
    return False


def short_help(command: str) -> str:
    """Return the short help of a command."""
    lines = [
        f"usage: stn {command} [--config FILE ...] [OPTIONS]",
        "",
        f"{WHAT[command]}. An option overrides the files, a file those before it.",
        "",
        "options:",
        _line("--config FILE", "configuration file, yours or one that comes with the package"),
    ]
    for name, (_, default, text) in OPTIONS.items():
        lines.append(_line(f"--{name}", text + (f" (default: {default})" if default else "")))
    lines.append(_line("--seed_everything N", "seed of all random numbers (default: 0)"))
    lines.append(_line("--ckpt_path FILE", "checkpoint to start from, or to evaluate"))
    lines.append(_line("--print_config", "print the resulting configuration and stop"))
    for name in CLASSES:
        lines += ["", *_listing(name)]
    lines += ["", "the Trainer's most used options:"]
    lines += [_line(f"--trainer.{name}", text) for name, text in TRAINER.items()]
    return "\n".join(
        [
            *lines,
            "",
            f"stn {command} --help all lists every option; "
            "--data.help CLASS and --model.help CLASS list the arguments of a class.",
        ]
    )


def _listing(name: str) -> list[str]:
    packages, suffix = CLASSES[name]
    lines = [f"{name}:"]
    for package in packages:
        for public in package.__all__:
            thing = getattr(package, public)
            concrete = inspect.isclass(thing) and not inspect.isabstract(thing)
            if concrete and public.endswith(suffix) and public not in NOT_LISTED:
                first = (inspect.getdoc(thing) or "").partition("\n")[0]
                lines.append(_line(public, first))
    return lines


def _line(name: str, text: str) -> str:
    return f"  {name:<37} {text}"
