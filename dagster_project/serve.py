"""Serves the pages of Dagster or MLflow behind `OwnOriginOnly`.

    python -m dagster_project.serve dagster --workspace FILE

`dagster-webserver` takes GraphQL mutations by GET from any page, and MLflow's server takes requests
from pages of every server on this machine; neither has a setting against it. So the applications
they are made of are served here, each in this process: a proxy in front would leave a port behind
it that pages can reach.
"""

import argparse
import importlib
import ipaddress
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from dagster_project.mlflow_page import BeginsWithTrainings
from dagster_project.own_origin import App, OwnOriginOnly, netlocs

GRACE_SECONDS = 5
"""Seconds that open connections get when the server is ended."""
MLFLOW_METHODS = ("DELETE", "PATCH", "PUT")


def build_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = argparse.ArgumentParser(prog="python -m dagster_project.serve", description=__doc__)
    servers = parser.add_subparsers(dest="server", required=True)
    dagster = servers.add_parser("dagster", help="Dagster's pages; DAGSTER_HOME names the instance")
    dagster.add_argument(
        "--workspace", required=True, help="workspace.yaml, which names the code servers"
    )
    mlflow = servers.add_parser("mlflow", help="MLflow's pages and tracking API")
    mlflow.add_argument("--backend-store-uri", required=True, help="the tracking database")
    mlflow.add_argument(
        "--default-artifact-root", required=True, help="where new experiments keep their artifacts"
    )
    for server, port in ((dagster, 3000), (mlflow, 5000)):
        server.add_argument(
            "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
        )
        server.add_argument("--port", type=int, default=port, help="default: %(default)s")
        server.add_argument(
            "--origin",
            action="append",
            default=[],
            help="where browsers find the server, such as https://dagster.example.org; once for "
            "each. Needed beside a --host that isn't a loopback address; there it is the only "
            "protection against other users, so put authentication in front",
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        origins = [*own_origins(args.host, args.port), *args.origin]
        if not origins:
            parser.error(
                f"--host {args.host} can be reached from elsewhere: name the server's address with "
                "--origin"
            )
        if args.server == "dagster":
            with dagster_app(args.workspace) as app:
                serve(OwnOriginOnly(app, origins=origins), host=args.host, port=args.port)
        else:
            app = mlflow_app(args.backend_store_uri, args.default_artifact_root, origins=origins)
            guard = OwnOriginOnly(
                app, origins=origins, methods=MLFLOW_METHODS, has_query_page=False
            )
            serve(guard, host=args.host, port=args.port)
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        pass
    return 0


def own_origins(host: str, port: int) -> Sequence[str]:
    """The addresses of a server that listens on a loopback address; none for any other."""
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        return ()
    names = dict.fromkeys([f"[{host}]" if ":" in host else host, "localhost"])
    return [f"http://{name}:{port}" for name in names]


def serve(app: OwnOriginOnly, *, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    # Nobody is trusted to say for whom a request is: neither Host nor the client's address may be
    # replaced.
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


@contextmanager
def dagster_app(workspace: str) -> Iterator[App]:
    """What `dagster-webserver` serves, for the instance in DAGSTER_HOME."""
    from dagster import DagsterInstance
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.cli import (
        DEFAULT_DB_STATEMENT_TIMEOUT,
        DEFAULT_POOL_MAX_OVERFLOW,
        DEFAULT_POOL_RECYCLE,
    )
    from dagster_webserver.version import __version__

    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(
            DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW
        )
        target = WorkspaceFileTarget([workspace])
        with WorkspaceProcessContext(
            instance, version=__version__, workspace_load_target=target
        ) as context:
            yield create_app_from_workspace_process_context(context, live_data_poll_rate=2000)


def mlflow_app(
    backend_store_uri: str, default_artifact_root: str, *, origins: Sequence[str]
) -> App:
    """What `mlflow server` serves; it finds its settings in the environment when it is imported."""
    # Its own checks stay; they would refuse other hosts than those of this machine.
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(
        netloc for origin in origins for netloc in netlocs(origin)
    )
    os.environ["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(origins)
    constants = importlib.import_module("mlflow.server.constants")
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = backend_store_uri
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = backend_store_uri
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = default_artifact_root
    app: App = importlib.import_module("mlflow.server.fastapi_app").app
    pages = Path(importlib.import_module("mlflow.server").app.static_folder)
    return BeginsWithTrainings(app, page=pages / "index.html")


if __name__ == "__main__":
    sys.exit(main())
