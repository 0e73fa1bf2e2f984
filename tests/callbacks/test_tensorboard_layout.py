"""TensorBoard, opened in a browser over two runs."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.metadata import (
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)
from tensorboard.util.tensor_util import make_ndarray

from stn_lightning.callbacks.tensorboard_layout import LAYOUT
from stn_lightning.cli.training import run
from tests.browser import CHROMIUM, REASON, browser
from tests.stn_command import CONFIGS


def test_every_chart_of_the_layout_shows_something_of_a_run(small_run: Path) -> None:
    events = EventAccumulator(str(small_run))
    events.Reload()
    scalars = events.Tags()["scalars"]
    for charts in LAYOUT.values():
        for title, (_, patterns) in charts.items():
            for pattern in patterns:
                assert [tag for tag in scalars if re.search(pattern, tag)], title
    written = Layout.FromString(
        make_ndarray(events.Tensors("custom_scalars__config__")[0].tensor_proto).item()
    )
    assert [category.title for category in written.category] == list(LAYOUT)


def test_hyper_parameters_are_asked_of_every_run(small_run: Path) -> None:
    events = EventAccumulator(str(small_run))
    events.Reload()
    told = events.PluginTagToContent("hparams")
    assert set(told) == {SESSION_START_INFO_TAG, SESSION_END_INFO_TAG}, (
        "the first run's list of them is taken for that of all"
    )
    assert (
        "model.transformer.family"
        in parse_session_start_info_plugin_data(told[SESSION_START_INFO_TAG]).hparams
    )
    assert events.Scalars("final/test/error")[0].step == 0


def test_the_networks_modules_are_written_as_text(small_run: Path) -> None:
    events = EventAccumulator(str(small_run))
    events.Reload()
    (text,) = events.Tensors("network/text_summary")
    assert b"(sampler): Bilinear()" in text.tensor_proto.string_val[0]


@pytest.fixture
def address(small_run: Path, tmp_path: Path) -> Iterator[str]:
    """Of a TensorBoard over a run with a transformer and one without."""
    plain = (
        "--trainer.max_epochs=2",
        "--trainer.limit_train_batches=12",
        "--model.init_args.backbone.init_args.num_filters=8",
    )
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/with_transformer").symlink_to(small_run)
    with contextlib.chdir(tmp_path):
        assert (
            run(
                [
                    "fit",
                    "--config",
                    str(CONFIGS / "quickstart_cnn.yaml"),
                    "--name",
                    "without",
                    *plain,
                ]
            )
            == 0
        )
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(tmp_path / "runs"),
        "--port",
        "0",
        "--host",
        "localhost",
        "--load_fast=false",
    ]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://localhost:\d+/", line):
            yield found[0]
            break
    server.terminate()
    server.wait(30)
    server.stdout.close()


TEXT = """(() => {
  const said = [];
  const walk = node => {
    if (node.nodeType == Node.TEXT_NODE) said.push(node.data);
    if (node.shadowRoot) walk(node.shadowRoot);
    node.childNodes.forEach(walk);
  };
  walk(document.body);
  return said.join(' ').replace(/\\s+/g, ' ');
})()"""
"""All of a page's words; much of TensorBoard lies in shadow roots."""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=REASON)
def test_tensorboard_shows_a_run_with_a_transformer_beside_one_without(
    address: str, tmp_path: Path
) -> None:
    with browser(tmp_path / "profile") as page:
        for name, words in {
            "custom_scalars": list(LAYOUT),
            "scalars": ["train/loss", "speed/images_per_second"],
            "images": ["where it looks"],
            "histograms": ["transformer/theta.00"],
            "hparams": ["Hyperparameters", "Metrics", "ComposedTransformer"],
            "pr_curves": ["precision_recall/0", "precision_recall/9"],
            "text": ["ClassificationTask", "ComposedTransformer"],
        }.items():
            page.open(f"{address}?darkMode=false#{name}", 1400, 900)
            for word in words:
                page.until(f"({TEXT}).includes({word!r})")
            page.value("new Promise(done => setTimeout(done, 3000))")  # until the curves are drawn
            page.screenshot(tmp_path / f"{name}.png")
        assert page.value(TEXT).count("with_transformer")
        assert [line for line in page.complaints if "exception" in line.lower()] == []
