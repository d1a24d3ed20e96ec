"""The choice of a decoder: which is taken, what is said of it, and what is refused."""

import importlib.util
import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from engine.config import ConfigError, RunConfig
from engine.data import dali, decoders, jpeg, torchvision_views, view_maker
from engine.data.decoders import Decoders, choose_decoders
from engine.data.loader import build_loader
from engine.data.open_source import open_source
from engine.data.statements import StatementSlots, open_statements
from engine.data.tokenizer import open_tokenizer
from engine.data.torchvision_views import TorchvisionViews
from tests.check_runs import look, make_good
from tests.engine.test_data_batches import run_config
from tests.engine.test_torchvision_views import by_simplejpeg
from tests.shards import write_shards, write_statements

FIND = importlib.util.find_spec


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These packages are not installed."""
    found = lambda name: None if name in names else FIND(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_what_auto_takes_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_decoders("auto", "cpu") == Decoders(jpeg.by_simplejpeg, on_device=None)
    assert choose_decoders("simplejpeg", "cpu").host is jpeg.by_simplejpeg
    assert choose_decoders("pillow", "cpu") == Decoders(jpeg.by_pillow, on_device=None)
    missing(monkeypatch, "simplejpeg")
    assert choose_decoders("auto", "cpu").host is jpeg.by_pillow
    with pytest.raises(ConfigError, match="simplejpeg is not installed"):
        choose_decoders("simplejpeg", "cpu")


def test_a_forced_dali_runs_on_a_cpu_too_and_is_announced_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    decoders._announce.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert choose_decoders("dali", "cpu") == Decoders(jpeg.by_simplejpeg, on_device="dali")
    assert caplog.messages == [
        "JPEG decoder: DALI on cpu; simplejpeg for what it does not take",
    ]


def test_dali_is_looked_at_only_where_it_may_make_the_views(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []
    note = lambda decoder, device, single: tried.append((decoder, device))  # noqa: E731
    monkeypatch.setattr(decoders, "_fault", note)
    for device, fast_views in (("cpu", True), ("cuda", False)):
        assert choose_decoders("auto", device, fast_views=fast_views).on_device is None
    assert tried == []
    assert choose_decoders("auto", "cuda").on_device == "dali" and tried == [("dali", "cuda")]
    # What a checkpoint remembers, so that another place to go on at does not change the views.
    kept = [decoders.in_effect(RunConfig(), on, single=True).data for on in ("cpu", "cuda")]
    assert [data.jpeg_decoder for data in kept] == ["auto", "dali"]


def test_auto_without_dali_takes_the_hosts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No GPU has been measured with torchvision, so it is taken only by name."""
    decoders._announce.cache_clear()
    found = {"dali": "no DALI", "torchvision": None}
    monkeypatch.setattr(decoders, "_fault", lambda decoder, device, single: found[decoder])
    with caplog.at_level(logging.INFO):
        assert choose_decoders("auto", "cuda").on_device is None
        assert choose_decoders("torchvision", "cuda").on_device == "torchvision"
    assert decoders.in_effect(RunConfig(), "cuda", single=True).data.jpeg_decoder == "auto"
    assert caplog.messages == [
        "JPEG decoder: simplejpeg (no DALI)",
        "JPEG decoder: torchvision on cuda; simplejpeg for what it does not take",
    ]


@pytest.mark.parametrize(
    ("choice", "module", "line"),
    [
        ("dali", "nvidia.dali", r"DALI is not installed \(pip install '\.\[gpu-decoding\]'\)"),
        ("torchvision", "torchvision", r"torchvision is not installed \(pip install the torchv"),
    ],
)
def test_what_is_forced_and_not_there_is_refused(
    choice: str, module: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(monkeypatch, module)
    with pytest.raises(ConfigError, match=f"data.jpeg_decoder: {line}"):
        choose_decoders(choice, "cpu")


def test_a_torchvision_without_nvjpeg_is_found_before_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or one for another PyTorch, which does not even import; and one that fails is tried once."""
    tried = []

    def decode(encoded: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        tried.append(device.type)
        raise RuntimeError("\ntorchvision not compiled with nvJPEG support\n")

    decoders._tried.cache_clear()
    monkeypatch.setattr(TorchvisionViews, "is_installed", lambda: True)
    monkeypatch.setattr(TorchvisionViews, "decode", staticmethod(decode))
    why = r"torchvision cannot run here on cpu \(torchvision not compiled with nvJPEG support\)"
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"{why}; or set auto"):
            choose_decoders("torchvision", "cpu")
    assert tried == ["cpu"]
    decoders._tried.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is in use cannot be hidden")
def test_where_dali_cannot_run_auto_falls_back_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    decoders._tried.cache_clear()
    decoders._announce.cache_clear()
    with caplog.at_level(logging.INFO):
        assert choose_decoders("auto", "cuda") == Decoders(jpeg.by_simplejpeg, on_device=None)
    (line,) = caplog.messages
    assert line.startswith("JPEG decoder: simplejpeg (DALI cannot run here on cuda (")
    with pytest.raises(ConfigError, match="DALI cannot run here on cuda") as refused:
        choose_decoders("dali", "cuda")
    assert "\n" not in str(refused.value)
    decoders._tried.cache_clear()


@pytest.mark.parametrize(("choice", "module"), [("dali", dali), ("torchvision", torchvision_views)])
def test_wrong_views_are_found_before_a_run(
    choice: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders._tried.cache_clear()
    monkeypatch.setattr(TorchvisionViews, "is_installed", lambda: True)
    monkeypatch.setattr(TorchvisionViews, "decode", staticmethod(by_simplejpeg))
    planned, expected = view_maker.trial(64)
    monkeypatch.setattr(module, "trial", lambda size: (planned, expected.flip(3)))
    with pytest.raises(ConfigError, match=r"its views are \d+\.\d steps of 255 from Pillow's"):
        choose_decoders(choice, "cpu")
    decoders._tried.cache_clear()


def test_statements_of_two_pictures_are_the_hosts(tmp_path: Path) -> None:
    config = run_config(write_statements(tmp_path, 8), jpeg_decoder="dali")
    with pytest.raises(ConfigError, match="single pictures, not of two"):
        StatementSlots(config, open_statements(config.data.train))


def test_a_run_without_a_gpu_plans_nothing_by_itself(tmp_path: Path) -> None:
    config = replace(run_config(write_shards(tmp_path, 8)), device="cpu")
    place = {"rank": 0, "world_size": 1, "start_step": 0, "stop_step": 1}
    source = open_source(config.data.train)
    (batch,) = build_loader(config, source, open_tokenizer(None), **place)
    assert batch.planned is None and len(batch) == len(batch.image)


def test_check_says_what_dali_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_good(tmp_path)
    assert not look(place, "--data.jpeg_decoder", "dali")
    missing(monkeypatch, "nvidia.dali")
    (finding,) = look(place, "--data.jpeg_decoder", "dali")
    assert (finding.severity, finding.name) == ("error", "jpeg_decoder")
    assert "DALI is not installed (pip install '.[gpu-decoding]'); or set auto" in finding.line
