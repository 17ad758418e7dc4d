"""Deliver records to MLflow. The only importer of mlflow, and in a process of its own that can be stopped in time.

python -m stages.tracking deliver     deliver every record that waits in data/outbox
python -m stages.tracking ui          open the MLflow UI on the embedded store
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.address import follow, reached, root, shown, store_uri
from stages.bundle import Signature, open_bundle
from stages.closure import closure
from stages.config import Tracking, read_params, validate
from stages.errors import PinwerkError, TrackingError, run_stage
from stages.outbox import BUNDLE, FILES, Delivered, Record, alone, deliver_all, lock, settle, take, went
from stages.pyfunc import example

RECORD, DELIVERED, VERSION, MD5 = "pinwerk.record", "pinwerk.delivered", "model.version", "md5"
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.tracking", description="Deliver records, open the UI.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("deliver", help="deliver every record that waits")
    verbs.add_parser("ui", help="open the MLflow UI").add_argument("--port", type=int, default=5000)
    one = verbs.add_parser("one", description="deliver one record in this process")
    one.add_argument("folder", type=Path)
    one.add_argument("seconds", type=float)
    one.add_argument("timeout", type=float)
    args = parser.parse_args(argv)
    tracking = validate(read_params()).tracking
    if args.verb == "one":
        signal.setitimer(signal.ITIMER_REAL, args.seconds + 1)  # ends this process also where its parent was killed
        print(json.dumps(asdict(_deliver(args.folder, tracking.model_copy(update={"timeout": args.timeout})))))
    elif args.verb == "ui":
        _ui(tracking, args.port)
    else:
        deliver_all(tracking)


def _settings(tracking: Tracking) -> dict[str, str]:
    """MLflow's own: give up soon, tell nobody, print nothing; no request again, which could make a second run."""
    return {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(tracking.timeout))),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "DO_NOT_TRACK": "1",
    }


def _deliver(folder: Path, tracking: Tracking) -> Delivered:
    """Deliver in this process and forget the record. Raises TrackingError."""
    reached(tracking)
    os.environ.update(_settings(tracking))
    import mlflow

    # the embedded store has room for one: two processes that create its tables at once break it
    with alone(lock() if tracking.mode == "embedded" else folder):
        follow(tracking)
        mlflow.set_tracking_uri(store_uri(tracking))
        try:
            client = mlflow.MlflowClient()
            if not folder.exists():
                return _delivered_before(folder)
            done = _fill(client, take(folder), folder, tracking)
        except PinwerkError:
            raise
        except Exception as error:  # mlflow lets through whatever its database and its HTTP client raise
            raise TrackingError(_reason(error)) from error
        settle(folder, done)
    return done


def _reason(error: Exception) -> str:
    """In one line; of an error that wraps another, the inner one: the outer holds the address with the password."""
    _, wraps, inner = " ".join(str(error).split()).rpartition("(Caused by ")
    return inner.removesuffix(")") if wraps else f"{type(error).__name__}: {inner}"


def _delivered_before(folder: Path) -> Delivered:
    """Where the record went that another process has delivered meanwhile."""
    done = went(folder.name)
    if done is None:
        raise TrackingError(f"{folder}: there is no such record")
    return done


def _fill(client: Any, record: Record, folder: Path, tracking: Tracking) -> Delivered:
    """The record's run, filled and finished, and its version; what an earlier try has made is used."""
    experiment = _experiment(client, record.experiment, tracking)
    run = _run_of(client, record, experiment)
    run_id, tags = str(run.info.run_id), run.data.tags
    if tags.get(DELIVERED) == "true":  # the same execution again, such as `dvc repro -f`
        return Delivered(run_id, record.model, int(tags[VERSION]))
    _log(client, run_id, record, folder)
    with alone(lock()) if tracking.mode == "server" else nullcontext():
        version, model = _register(client, run_id, experiment, record, folder)
    _measure(client, run_id, record, model)
    client.set_tag(run_id, VERSION, str(version))
    client.set_terminated(run_id, "FINISHED")
    client.set_tag(run_id, DELIVERED, "true")
    return Delivered(run_id, record.model, version)


def _experiment(client: Any, name: str, tracking: Tracking) -> str:
    from mlflow.exceptions import MlflowException

    place = (root() / "mlartifacts").as_uri() if tracking.mode == "embedded" else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def _run_of(client: Any, record: Record, experiment: str) -> Any:
    """The run that carries the record's id, or a new one."""
    found = client.search_runs([experiment], f"tags.`{RECORD}` = '{record.id}'", max_results=1)
    if found:
        return found[0]
    return client.create_run(experiment, start_time=record.time, tags={RECORD: record.id}, run_name=record.name)


def _log(client: Any, run_id: str, record: Record, folder: Path) -> None:
    """Parameters, tags, data sets and files; again gives the same."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    params = [Param(key, value) for key, value in record.params.items()]
    tags = [RunTag(key, value) for key, value in record.tags.items()]
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
    client.log_batch(run_id, tags=tags)
    inputs = [
        DatasetInput(
            Dataset(name, md5.removesuffix(".dir")[:32], "dvc", json.dumps({"md5": md5})),
            [InputTag("mlflow.data.context", name.rsplit("/", 1)[-1])],
        )
        for name, md5 in record.datasets.items()
    ]
    client.log_inputs(run_id, inputs)
    client.log_artifacts(run_id, str(folder / FILES))


def _measure(client: Any, run_id: str, record: Record, model: str | None) -> None:
    """The run's metrics and its model's. Last: logging a model asks the server for each metric of the run by itself."""
    from mlflow.entities import Metric

    metrics = [Metric(key, value, record.time, 0, model_id=model) for key, value in record.metrics.items()]
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])


def _register(client: Any, run_id: str, experiment: str, record: Record, folder: Path) -> tuple[int, str | None]:
    """The version of the registered model that has this bundle's md5, the one that is there or a new one.

    With it the id of the logged model behind it; None where another run has logged it.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(record.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    there = client.search_model_versions(f"name = '{record.model}' and tags.`{MD5}` = '{record.model_md5}'")
    if there:
        newest = max(there, key=lambda version: int(version.version))
        return int(newest.version), str(newest.source).removeprefix("models:/") if newest.run_id == run_id else None
    model = _logged(client, run_id, experiment, folder / BUNDLE)
    tags = {MD5: record.model_md5, "git.commit": record.tags.get("git.commit", ""), RECORD: record.id}
    made = client.create_model_version(record.model, f"models:/{model}", run_id=run_id, tags=tags, model_id=model)
    return int(made.version), model


def _logged(client: Any, run_id: str, experiment: str, bundle: Path) -> str:
    """Log the bundle itself as a python_function model; its id. The bytes that DVC pins are the bytes MLflow keeps.

    A model that an earlier try has logged whole is taken, one half-made is removed.
    """
    import mlflow

    for earlier in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if earlier.status == "READY":
            return str(earlier.model_id)
        client.delete_logged_model(earlier.model_id)
    model = open_bundle(bundle)
    with mlflow.start_run(run_id=run_id), tempfile.TemporaryDirectory() as scratch:
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="stages.pyfunc",
            data_path=str(bundle),
            code_paths=[str(_loader(Path(scratch)))],
            signature=_mlflow_signature(model.signature),
            input_example=example(model),
            pip_requirements=[f"{name}=={found}" for name, found in _requirements(model.provenance).items()],
        )
    return str(logged.model_id)


def _loader(scratch: Path) -> Path:
    """Our package, cut down to the modules that open a bundle: each file is a request."""
    ours = Path(__file__).parents[1]
    for path in closure("stages.pyfunc", ours) | {"stages/__init__.py"}:
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ours / path, scratch / path)
    return scratch / "stages"


def _requirements(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a bundle needs to answer: the libraries that it was made with, less the compiler of its graph."""
    return {name: found for name, found in provenance["libraries"].items() if name != "onnx"}


def _mlflow_signature(signature: Signature) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    kinds = {"numeric": DataType.double, "categorical": DataType.string}
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(kinds[c.kind], c.name, required=not c.nullable) for c in signature.columns
    ]
    label = DataType.double
    if signature.classes is not None:
        label = DataType.string if isinstance(signature.classes[0], str) else DataType.long
    outputs: list[ColSpec | TensorSpec] = [ColSpec(label, "prediction")]
    outputs += [ColSpec(DataType.double, f"probability_{name}") for name in signature.classes or ()]
    return ModelSignature(Schema(inputs), Schema(outputs))


def _ui(tracking: Tracking, port: int) -> None:
    """Become the MLflow server on the embedded store; for another store say where it is."""
    if tracking.mode == "server":
        print(f"tracking: the record is in {shown(tracking)}")
        return
    if tracking.mode == "off":
        print("tracking: mode is off, nothing is kept")
        return
    if not (root() / "mlflow.db").exists():
        raise TrackingError(f"{root() / 'mlflow.db'}: there is no record yet; `make run` makes the first")
    follow(tracking)
    os.environ.update({**_settings(tracking), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    print(f"tracking: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    server = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    places = ["--backend-store-uri", store_uri(tracking), "--artifacts-destination", str(root() / "mlartifacts")]
    os.execv(sys.executable, [*server, *places])


if __name__ == "__main__":
    run_stage(main)
