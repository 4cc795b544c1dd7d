"""Running the service in this process: socket, ready file, signals, orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator

import uvicorn

from tinsmith.core.errors import ConfigError, TinsmithError
from tinsmith.core.ids import new_id
from tinsmith.core.jsonio import dumps
from tinsmith.server.app import make_app
from tinsmith.server.config import ServerConfig
from tinsmith.server.service import Service

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Server(uvicorn.Server):
    """uvicorn without its 0.1 s tick: waits for one event and handles signals on the loop."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        """Waits until someone sets `stop`."""
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets go of long polls, then closes connections and engines."""
        self._service.release_polls()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends the service on the usual signals; a second one ends it at once."""
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if self.stop.is_set():
                self.force_exit = True
            self.stop.set()

        try:
            for number in STOP_SIGNALS:
                loop.add_signal_handler(number, on_signal)
        except (RuntimeError, ValueError):  # not the main thread: its owner handles signals
            yield
            return
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)


def serve(config: ServerConfig) -> int:
    """Serves until a signal or the idle exit; returns the exit code.

    Raises:
        ConfigError: the address cannot be listened on, a given model is not there, or the device.
        ServerError: none of the given models can be loaded.
    """
    if config.api_key is None and config.ready_file is not None:
        config = config.model_copy(update={"api_key": f"tml-{secrets.token_urlsafe(32)}"})
    with _listen(config) as sock:
        failure = asyncio.run(_serve(config, sock))
    if failure is not None:
        raise failure
    return 0


async def _serve(config: ServerConfig, sock: socket.socket) -> TinsmithError | None:
    """Serves; returns why it ended before its time."""
    host, port = sock.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    async with Service.running(config) as service:
        uvicorn_config = uvicorn.Config(
            make_app(service),
            access_log=False,
            date_header=False,
            http="httptools",  # a third of a request's time goes into a parser written in Python
            lifespan="off",
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=3,
            timeout_keep_alive=75,
        )
        server = _Server(uvicorn_config, service)
        service.on_idle = server.stop.set
        if service.failure is not None:
            server.stop.set()
        # What has been imported and made so far stays: the collector need not walk it again and
        # again, which would cost every request a share.
        gc.collect()
        gc.freeze()
        sock.listen(2048)  # from here on connections queue up: the file may promise an answer
        logger.info("listening on %s", url)
        with _ready_file(config, url):
            await server.serve(sockets=[sock])
        return service.failure


@contextlib.contextmanager
def _ready_file(config: ServerConfig, url: str) -> Iterator[None]:
    """Tells the starter where the service listens, for as long as it does."""
    path = config.ready_file
    if path is None:
        yield
        return
    text = dumps({"url": url, "pid": os.getpid(), "api_key": config.api_key})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{new_id()[:8]}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # holds a key
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == text:  # not another service's by now
                path.unlink()


def _listen(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # The protocol is named because asyncio disables Nagle's algorithm only on sockets that say they
    # are TCP, and accepted ones inherit it: without it each answer waits 40 ms for a delayed ACK.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((config.host, config.port))
    except OSError as exc:
        sock.close()
        raise ConfigError(
            f"host={config.host!r} port={config.port}: cannot listen there: {exc.strerror}",
            field="port",
            hint="choose another --port, or 0 for a free one",
        ) from exc
    return sock
