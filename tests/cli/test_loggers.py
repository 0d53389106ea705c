"""Loggers of optional packages, which are replaced by stubs and need not be installed."""

import importlib
import sys

import pytest

from tests.helpers.commands import invoke, one_line

WANDB = """
class Api:
    api_key = None

api = Api()

def ensure_configured():
    pass
"""
# Fails as MLflow 3 does with a tracking store in a folder of files.
MLFLOW = """
from mlflow.exceptions import MlflowException

def set_tracking_uri(uri):
    pass

set_registry_uri = set_tracking_uri

def get_experiment_by_name(name):
    raise MlflowException("The filesystem tracking backend is in maintenance mode. Move to a database.\\nMore")

set_experiment = create_experiment = get_experiment_by_name
"""
PACKAGES = {
    "wandb": {
        "__init__": WANDB,
        "util": "def json_dumps_safer(value): pass",
        "wandb_run": "class Run: pass",
        "sdk/__init__": "",
        "sdk/data_types/__init__": "",
        "sdk/data_types/image": "class Image: pass",
        "sdk/data_types/video": "class Video: pass",
        "sdk/data_types/base_types/__init__": "",
        "sdk/data_types/base_types/wb_value": "class WBValue: pass",
    },
    "mlflow": {"__init__": MLFLOW, "exceptions": "class MlflowException(Exception): pass"},
}


@pytest.fixture
def stub_packages(monkeypatch, tmp_path):
    for package, modules in PACKAGES.items():
        for name, code in modules.items():
            file = tmp_path / "packages" / package / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    importlib.invalidate_caches()

    def drop_modules():
        for name in list(sys.modules):
            if name.split(".")[0] in PACKAGES or name in ("ray.air.integrations.wandb", "ray.air.integrations.mlflow"):
                del sys.modules[name]

    drop_modules()
    yield
    drop_modules()


@pytest.mark.parametrize(
    ("logger", "problem"),
    [
        ("wandb", "loggers: wandb: No WandB API key found; run `wandb login`, or set WANDB_API_KEY"),
        ("mlflow", "loggers: mlflow: The filesystem tracking backend is in maintenance mode; set MLFLOW_TRACKING_URI"),
    ],
)
def test_unusable_loggers_are_refused_before_ray_starts(stub_packages, no_ray, tmp_path, logger, problem):
    file = tmp_path / "run.yaml"
    entry = f"{{run: Reciprocator, env: ipd_v0, stop: {{training_iteration: 1}}, loggers: [{logger}]}}"
    file.write_text(f"x: {entry}")
    one_line(invoke("train", "file", str(file), "--storage-path", str(tmp_path)), f"rllib: x.{problem}")
