"""Deliver records to MLflow. The only importer of mlflow, and in a process of its own that can be stopped in time.

python -m stages.tracking deliver     deliver every record that waits in data/outbox
python -m stages.tracking ui          open the MLflow UI on the embedded store
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from stages.bundle import Signature, open_bundle
from stages.config import Tracking, read_params, validate
from stages.errors import TrackingError, run_stage
from stages.outbox import BUNDLE, FILES, Record, forget, outbox, queued, root, take

RECORD, DELIVERED, MD5 = "pinwerk.record", "pinwerk.delivered", "md5"
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000
EMBEDDED_SECONDS = 300  # the embedded store is local: only another delivery can make it wait


@dataclass(frozen=True)
class Delivered:
    """Where a record went."""

    run_id: str
    model_version: str


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.tracking", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("deliver", help="deliver every record that waits")
    verbs.add_parser("ui", help="open the MLflow UI").add_argument("--port", type=int, default=5000)
    verbs.add_parser("one", help=argparse.SUPPRESS).add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    tracking = validate(read_params()).tracking
    if args.verb == "one":
        print(json.dumps(asdict(_deliver(args.folder, tracking))))
    elif args.verb == "ui":
        _ui(tracking, args.port)
    else:
        _deliver_all(tracking)


def _deliver_all(tracking: Tracking) -> None:
    waiting = queued()
    if tracking.mode == "off":
        raise TrackingError("conf/tracking: mode is off; choose tracking: embedded or server in conf/config.yaml")
    for folder in waiting:
        done = deliver(folder, tracking)
        print(f"tracking: {take_name(folder)} → run {done.run_id}, {tracking.model} version {done.model_version}")
        forget(folder)
    if not waiting:
        print(f"tracking: nothing waits in {outbox()}")


def take_name(folder: Path) -> str:
    """How a record is called in messages."""
    return folder.name[:8]


def deliver(folder: Path, tracking: Tracking) -> Delivered:
    """Deliver one record, within the deadline. The same record twice is one run and one version.

    Raises TrackingError with the reason where the store cannot take it; the record stays where it is.
    """
    reached(tracking)
    command = [sys.executable, "-m", "stages.tracking", "one", str(folder)]
    limit = EMBEDDED_SECONDS if tracking.mode == "embedded" else tracking.deadline
    env = {**os.environ, **_quiet(tracking)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise TrackingError(f"{shown(tracking)} did not take the record within {limit:g} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no reason given"]
        raise TrackingError(f"{shown(tracking)}: {_masked(lines[-1].removeprefix('error: '), tracking)}")
    return Delivered(**json.loads(done.stdout.strip().splitlines()[-1]))


def reached(tracking: Tracking) -> None:
    """Raise TrackingError at once where nobody listens: a look costs less than importing mlflow."""
    if tracking.mode != "server" or tracking.uri is None:
        return
    parts = urlsplit(tracking.uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=tracking.timeout):
            return
    except OSError as error:
        raise TrackingError(f"{shown(tracking)} cannot be reached ({error.strerror or error})") from None


def shown(tracking: Tracking) -> str:
    """The store as messages name it, without user and password."""
    if tracking.uri is None:
        return "the embedded store"
    parts = urlsplit(tracking.uri)
    host = parts.hostname or ""
    return "the tracking server " + urlunsplit(
        (parts.scheme, f"{host}:{parts.port}" if parts.port else host, "", "", "")
    )


def _masked(text: str, tracking: Tracking) -> str:
    secrets = [urlsplit(tracking.uri or "").password, os.environ.get("MLFLOW_TRACKING_PASSWORD")]
    for secret in (*secrets, os.environ.get("MLFLOW_TRACKING_TOKEN")):
        text = text.replace(secret, "***") if secret else text
    return text


def _quiet(tracking: Tracking) -> dict[str, str]:
    """MLflow's own settings: give up soon, tell nobody, print nothing."""
    return {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
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


@contextmanager
def _alone(tracking: Tracking) -> Iterator[None]:
    """Hold the embedded store: two processes that create its tables at once break it."""
    if tracking.mode != "embedded":
        yield
        return
    outbox().mkdir(parents=True, exist_ok=True)
    with (outbox() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _deliver(folder: Path, tracking: Tracking) -> Delivered:
    """Deliver in this process. Raises TrackingError."""
    record = take(folder)
    with _alone(tracking):
        import mlflow
        from mlflow.exceptions import MlflowException

        mlflow.set_tracking_uri(store_uri(tracking))
        try:
            client = mlflow.MlflowClient()
            run_id = _run_of(client, record, _experiment(client, tracking))
            _fill(client, run_id, record, folder)
            version = _register(client, run_id, record, folder, tracking)
            client.set_tag(run_id, DELIVERED, "true")
            client.set_terminated(run_id, "FINISHED")
        except (MlflowException, OSError) as error:
            raise TrackingError(" ".join(str(error).split())[:500]) from error
    return Delivered(run_id, version)


def _experiment(client: Any, tracking: Tracking) -> str:
    found = client.get_experiment_by_name(tracking.experiment)
    if found is not None:
        return str(found.experiment_id)
    place = (root() / "mlartifacts").as_uri() if tracking.mode == "embedded" else None
    return str(client.create_experiment(tracking.experiment, artifact_location=place))


def _run_of(client: Any, record: Record, experiment: str) -> str:
    """The run that carries the record's id, or a new one."""
    found = client.search_runs([experiment], f"tags.`{RECORD}` = '{record.id}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment, start_time=record.time, tags={RECORD: record.id}, run_name=record.name)
    return str(run.info.run_id)


def _fill(client: Any, run_id: str, record: Record, folder: Path) -> None:
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


def _register(client: Any, run_id: str, record: Record, folder: Path, tracking: Tracking) -> str:
    """The version of the registered model that has this bundle's md5: the one that is there, or a new one."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(tracking.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    there = client.search_model_versions(f"name = '{tracking.model}' and tags.`{MD5}` = '{record.model_md5}'")
    if there:
        version = str(max(int(v.version) for v in there))
    else:
        uri = _logged(run_id, folder / BUNDLE)
        tags = {MD5: record.model_md5, "git.commit": record.tags.get("git.commit", ""), RECORD: record.id}
        made = client.create_model_version(tracking.model, uri, run_id=run_id, tags=tags)
        version = str(made.version)
    client.set_tag(run_id, "model.version", version)
    return version


def _logged(run_id: str, bundle: Path) -> str:
    """Log the bundle itself as a python_function model; its URI. The bytes that DVC pins are the bytes MLflow keeps."""
    import mlflow

    import stages

    model = open_bundle(bundle)
    code = Path(str(stages.__file__)).parent
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="stages.pyfunc",
            data_path=str(bundle),
            code_paths=[str(code)],
            signature=_mlflow_signature(model.signature),
            pip_requirements=[f"{name}=={found}" for name, found in _requirements(model.provenance).items()],
        )
    return str(logged.model_uri)


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
    if tracking.mode != "embedded":
        print(
            f"tracking: the record is in {shown(tracking)}"
            if tracking.uri
            else "tracking: mode is off, nothing is kept"
        )
        return
    if not (root() / "mlflow.db").exists():
        raise TrackingError(f"{root() / 'mlflow.db'}: there is no record yet; `make run` makes the first")
    os.environ.update({**_quiet(tracking), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    print(f"tracking: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    mlflow = Path(sys.executable).with_name("mlflow")
    os.execv(
        mlflow,
        [str(mlflow), "server", "--backend-store-uri", store_uri(tracking), "--workers", "1", "--port", str(port)],
    )


if __name__ == "__main__":
    run_stage(main)
