"""Start the service as platforms do: `python -m serve [serve] [--host H] [--port P] [--workers N]`.

SageMaker starts a container with the argument `serve`, wants port 8080 and lays the bundle into /opt/ml/model. Vertex
AI says by AIP_HTTP_PORT, AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE what it calls, by AIP_STORAGE_URI where the bundle is.
Elsewhere the port is 8000. With several workers their metrics are added up (PROMETHEUS_MULTIPROC_DIR).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from serve.logs import configure
from stages.errors import ModelError, run_stage

SAGEMAKER = Path("/opt/ml/model")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve"], help="what SageMaker says; port 8080 then")
    parser.add_argument("--host", default="0.0.0.0", help="0.0.0.0: all interfaces")
    parser.add_argument("--port", type=int)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(arguments)
    os.environ.update(surroundings(os.environ, sagemaker=args.command == "serve"))
    configure()
    with tempfile.TemporaryDirectory(prefix="pinwerk-metrics-") as shared:
        if args.workers > 1:
            os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", shared)
        import uvicorn  # after the variable: whatever it imports may import the metrics

        uvicorn.run(
            "serve.app:app",
            host=args.host,
            port=args.port or _port(os.environ, sagemaker=args.command == "serve"),
            workers=args.workers,
            access_log=False,
            server_header=False,
            log_config=None,
            timeout_graceful_shutdown=30,
        )


def surroundings(environment: Mapping[str, str], *, sagemaker: bool, laid: Path = SAGEMAKER) -> dict[str, str]:
    """The variables of ours that follow from a platform's. Raises ModelError where the bundle cannot be fetched."""
    if environment.get("PINWERK_BUNDLE"):
        return {}
    if sagemaker and (laid / "signature.json").is_file():
        return {"PINWERK_BUNDLE": str(laid)}
    storage = environment.get("AIP_STORAGE_URI")
    return {"PINWERK_BUNDLE": str(fetched(storage))} if storage else {}


def fetched(uri: str) -> Path:
    """A copy of the bundle at a folder's URI. Raises ModelError."""
    import fsspec

    target = Path(tempfile.mkdtemp(prefix="pinwerk-bundle-"))
    try:
        system, path = fsspec.core.url_to_fs(uri)
        system.get(path.rstrip("/") + "/", f"{target}/", recursive=True)
    except Exception as error:  # each file system has errors of its own
        raise ModelError(f"AIP_STORAGE_URI: {uri} cannot be fetched ({error}); it is the folder of a bundle") from None
    if not (target / "signature.json").is_file():
        raise ModelError(f"AIP_STORAGE_URI: {uri} holds no signature.json; it is the folder of a bundle")
    return target


def _port(environment: Mapping[str, str], *, sagemaker: bool) -> int:
    return int(environment.get("AIP_HTTP_PORT") or environment.get("PORT") or (8080 if sagemaker else 8000))


if __name__ == "__main__":
    run_stage(main)
