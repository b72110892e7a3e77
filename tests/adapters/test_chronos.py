"""Chronos from a folder: the three classes of model, tiny and with random weights, through the adapter.

No weights of anybody are needed: what is tested is the way from a folder to a forecast.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo, check_forecast
from tests.conftest import need, synthetic_load_SLE

pytestmark = pytest.mark.slow
INFO = TraceInfo(2, 4, 2, (0, 1), 512, 1, "none", 0.0, 0)
REQUEST = ForecastRequest(300, 100, (1, 10, 100), (0.1, 0.5, 0.9))
T5_SIZE = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
DECILES = [q / 10 for q in range(1, 10)]


def write_t5(folder: Path) -> None:
    """The first Chronos: values as tokens of a language model, forecasts by sampling."""
    from transformers import T5Config, T5ForConditionalGeneration

    chronos = {
        "tokenizer_class": "MeanScaleUniformBins",
        "tokenizer_kwargs": {"low_limit": -5.0, "high_limit": 5.0},
        "context_length": 64, "prediction_length": 16, "n_tokens": 32, "n_special_tokens": 2, "pad_token_id": 0,
        "eos_token_id": 1, "use_eos_token": True, "model_type": "seq2seq", "num_samples": 5, "temperature": 1.0,
        "top_k": 10, "top_p": 1.0,
    }  # fmt: skip
    config = T5Config(vocab_size=32, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **T5_SIZE)
    config.chronos_config = chronos
    T5ForConditionalGeneration(config).save_pretrained(folder)


def write_bolt(folder: Path) -> None:
    """Chronos-Bolt: patches in, quantiles out."""
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    config = T5Config(decoder_start_token_id=0, pad_token_id=0, **T5_SIZE)
    config.chronos_pipeline_class = "ChronosBoltPipeline"
    config.architectures = ["ChronosBoltModelForForecasting"]
    config.chronos_config = {
        "context_length": 64, "prediction_length": 16, "input_patch_size": 8, "input_patch_stride": 8,
        "quantiles": DECILES, "use_reg_token": True,
    }  # fmt: skip
    ChronosBoltModelForForecasting(config).save_pretrained(folder)


def write_chronos_2(folder: Path) -> None:
    """Chronos-2: an encoder of patches that several series may share."""
    from chronos.chronos2.config import Chronos2CoreConfig
    from chronos.chronos2.model import Chronos2Model

    config = Chronos2CoreConfig(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    config.chronos_pipeline_class = "Chronos2Pipeline"
    config.architectures = ["Chronos2Model"]
    config.chronos_config = {
        "context_length": 64, "output_patch_size": 8, "input_patch_size": 8, "input_patch_stride": 8,
        "quantiles": [0.01, *DECILES, 0.99], "use_reg_token": True, "use_arcsinh": True, "max_output_patches": 2,
    }  # fmt: skip
    Chronos2Model(config).save_pretrained(folder)


def followed(folder: Path, seed: int = 0) -> Any:
    from moeload_bench.adapters.chronos import Chronos

    load = synthetic_load_SLE(300)
    forecaster = Chronos(INFO, seed, folder=str(folder))
    forecaster.observe(StepBlock(np.arange(300), load, load.sum(axis=2)))
    return forecaster


def asked(forecaster: Any) -> Forecast:
    return check_forecast(forecaster.forecast(REQUEST), REQUEST, INFO)


@pytest.mark.parametrize("write", [write_t5, write_bolt, write_chronos_2])
def test_a_folder_of_any_class_gives_shares_and_quantiles(write: Callable[[Path], None], tmp_path: Path) -> None:
    """Shares that sum to 1, quantiles in their order; the same when asked twice and by another instance."""
    need("chronos", "pip install chronos-forecasting")
    import torch

    torch.manual_seed(1)
    write(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    forecaster = followed(tmp_path)
    first, again, other = asked(forecaster), asked(forecaster), asked(followed(tmp_path))
    assert first.quantile_QKLE is not None
    assert first.quantile_QKLE.shape == (3, 3, 2, 4)
    assert (np.diff(first.quantile_QKLE, axis=0) >= 0).all()
    np.testing.assert_allclose(first.share_BLE.sum(axis=-1), 1.0)
    for told in (again, other):
        np.testing.assert_array_equal(told.share_BLE, first.share_BLE)
        np.testing.assert_array_equal(told.quantile_QKLE, first.quantile_QKLE)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    """Without safetensors, or with the configuration of another model: what was expected is said."""
    need("chronos", "pip install chronos-forecasting")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(TargetError, match=r"expected a local folder with config.json and model.safetensors"):
        followed(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(TargetError, match=r"chronos: .* cannot be read"):
        followed(tmp_path)
