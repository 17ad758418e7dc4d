"""Deliver records to MLflow. The only importer of mlflow, and in a process of its own that can be stopped in time.

python -m stages.tracking deliver     deliver every record that waits in data/outbox
python -m stages.tracking ui          open the MLflow UI on the embedded store
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.bundle import Signature, open_bundle
from stages.config import Tracking, read_params, validate
from stages.errors import PinwerkError, TrackingError, run_stage
from stages.outbox import (
    BUNDLE,
    FILES,
    Delivered,
    Record,
    alone,
    deliver,
    follow,
    forget,
    lock,
    outbox,
    queued,
    reached,
    root,
    shown,
    take,
)

RECORD, DELIVERED, VERSION, MD5 = "pinwerk.record", "pinwerk.delivered", "model.version", "md5"
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000
PATIENCE = 300  # seconds where nobody waits for a server: by hand, or the local store that another delivery holds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.tracking", description="Deliver records, open the UI.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("deliver", help="deliver every record that waits")
    verbs.add_parser("ui", help="open the MLflow UI").add_argument("--port", type=int, default=5000)
    one = verbs.add_parser("one", description="deliver one record in this process")
    one.add_argument("folder", type=Path)
    one.add_argument("seconds", type=float)
    args = parser.parse_args(argv)
    tracking = validate(read_params()).tracking
    if args.verb == "one":
        signal.setitimer(signal.ITIMER_REAL, args.seconds + 1)  # ends this process also where its parent was killed
        print(json.dumps(asdict(_deliver(args.folder, tracking))))
    elif args.verb == "ui":
        _ui(tracking, args.port)
    else:
        _deliver_all(tracking)


def _deliver_all(tracking: Tracking) -> None:
    """Deliver what waits, one after the other; raises TrackingError at the end where some could not be."""
    if tracking.mode == "off":
        raise TrackingError("conf/tracking: mode is off; choose tracking: embedded or server in conf/config.yaml")
    waiting = queued()
    if not waiting:
        print(f"tracking: nothing waits in {outbox()}")
        return
    reached(tracking)
    failed = 0
    for folder in waiting:
        try:
            take(folder)
            done = deliver(folder, tracking, PATIENCE)
        except TrackingError as error:
            if folder.exists():
                failed += 1
                print(f"error: {folder.name[:8]}: {error}", file=sys.stderr, flush=True)
            continue  # another process has delivered it meanwhile
        print(f"tracking: {folder.name[:8]} → run {done.run_id}, {done.model} version {done.version}", flush=True)
    if failed:
        raise TrackingError(f"{failed} of {len(waiting)} records were not delivered; they stay in {outbox()}")


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


def store_uri(tracking: Tracking) -> str:
    """The tracking URI: the server's, or SQLite at the root of the real repository."""
    return tracking.uri or f"sqlite:///{root() / 'mlflow.db'}"


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
                return _delivered_before(client, folder, tracking)
            done = _fill(client, take(folder), folder, tracking)
        except PinwerkError:
            raise
        except Exception as error:  # mlflow lets through whatever its database and its HTTP client raise
            raise TrackingError(_reason(error)) from error
        forget(folder)
    return done


def _reason(error: Exception) -> str:
    """In one line; of an error that wraps another, the inner one: the outer holds the address with the password."""
    _, wraps, inner = " ".join(str(error).split()).rpartition("(Caused by ")
    return inner.removesuffix(")") if wraps else f"{type(error).__name__}: {inner}"


def _delivered_before(client: Any, folder: Path, tracking: Tracking) -> Delivered:
    """Where the record went that another process has delivered meanwhile."""
    experiment = client.get_experiment_by_name(tracking.experiment)
    query = f"tags.`{RECORD}` = '{folder.name}' and tags.`{DELIVERED}` = 'true'"
    found = client.search_runs([experiment.experiment_id], query) if experiment else []
    if not found:
        raise TrackingError(f"{folder}: there is no such record")
    return Delivered(str(found[0].info.run_id), tracking.model, int(found[0].data.tags[VERSION]))


def _fill(client: Any, record: Record, folder: Path, tracking: Tracking) -> Delivered:
    """The record's run, filled and finished, and its version; what an earlier try has made is used."""
    experiment = _experiment(client, record.experiment, tracking)
    run_id = _run_of(client, record, experiment)
    _log(client, run_id, record, folder)
    with alone(lock()) if tracking.mode == "server" else nullcontext():
        version = _register(client, run_id, experiment, record, folder)
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


def _run_of(client: Any, record: Record, experiment: str) -> str:
    """The run that carries the record's id, or a new one."""
    found = client.search_runs([experiment], f"tags.`{RECORD}` = '{record.id}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment, start_time=record.time, tags={RECORD: record.id}, run_name=record.name)
    return str(run.info.run_id)


def _log(client: Any, run_id: str, record: Record, folder: Path) -> None:
    """Parameters, metrics, tags, data sets and files; again gives the same."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    params = [Param(key, value) for key, value in record.params.items()]
    metrics = [Metric(key, value, record.time, 0) for key, value in record.metrics.items()]
    tags = [RunTag(key, value) for key, value in record.tags.items()]
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])
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


def _register(client: Any, run_id: str, experiment: str, record: Record, folder: Path) -> int:
    """The version of the registered model that has this bundle's md5: the one that is there, or a new one."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(record.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    there = client.search_model_versions(f"name = '{record.model}' and tags.`{MD5}` = '{record.model_md5}'")
    if there:
        return max(int(v.version) for v in there)
    model = _logged(client, run_id, experiment, folder / BUNDLE)
    tags = {MD5: record.model_md5, "git.commit": record.tags.get("git.commit", ""), RECORD: record.id}
    made = client.create_model_version(record.model, f"models:/{model}", run_id=run_id, tags=tags, model_id=model)
    return int(made.version)


def _logged(client: Any, run_id: str, experiment: str, bundle: Path) -> str:
    """Log the bundle itself as a python_function model; its id. The bytes that DVC pins are the bytes MLflow keeps.

    A model that an earlier try has logged whole is taken, one half-made is removed.
    """
    import mlflow

    import stages

    for earlier in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if earlier.status == "READY":
            return str(earlier.model_id)
        client.delete_logged_model(earlier.model_id)
    model = open_bundle(bundle)
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="stages.pyfunc",
            data_path=str(bundle),
            code_paths=[str(Path(str(stages.__file__)).parent)],
            signature=_mlflow_signature(model.signature),
            pip_requirements=[f"{name}=={found}" for name, found in _requirements(model.provenance).items()],
        )
    return str(logged.model_id)


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
