"""The demo from its start to its end."""

import signal
import sys
import threading
from collections.abc import Callable

from engine.config import ConfigError
from engine.demo.config import DemoConfig, is_local
from engine.demo.folder import Folder, embedded
from engine.demo.models import DemoModels, open_models
from engine.demo.page import build_page
from engine.demo.results import Results
from engine.demo.server import DemoServer

# That a computation has to finish when the demo ends.
PATIENCE = 20.0


def run_demo(config: DemoConfig, say: Callable[[str], None]) -> None:
    """Serve the page until a signal (interrupt, terminate) ends it.

    Args:
        config: of the demo.
        say: takes lines about where the page is.

    Raises:
        ConfigError: no model, no usable picture in the folder, or an address that cannot be had.
    """
    server = opened(config)
    try:
        if not is_local(config.host):
            print(
                f"warning: {config.host} is not this machine alone: whoever reaches it can use the "
                "models and see the folder's pictures, and nothing is encrypted",
                file=sys.stderr,
            )
        _serve(server, say)
    finally:
        server.server_close()


def opened(config: DemoConfig) -> DemoServer:
    """A server that listens, with its models.

    Raises:
        ConfigError: no model, no usable picture in the folder, or an address that cannot be had.
    """
    # The port first: whether it is free is known at once, and models take their time.
    server = DemoServer(config)
    try:
        models = open_models(config)
        folder = _folder(config, models)
        results = Results(config, models, folder)
        results.rehearse()
        server.open(results, build_page(config, models, folder, server.access.token))
    except BaseException:
        server.server_close()
        raise
    return server


def _folder(config: DemoConfig, models: DemoModels) -> Folder | None:
    if config.folder is None:
        return None
    if models.matches is None:
        raise ConfigError("folder: none of the models can search: they have no text encoder")
    return embedded(config.folder, models.matches, config.batch_size, config.max_pixels)


def _serve(server: DemoServer, say: Callable[[str], None]) -> None:
    ended = threading.Event()
    kept = {
        number: signal.signal(number, lambda *_: ended.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    serving = threading.Thread(target=server.serve_forever, name="demo", daemon=True)
    try:
        serving.start()
        say(f"demo: {server.url} (Ctrl-C ends it)")
        ended.wait()
    finally:
        # A second signal does what it did before.
        for number, handler in kept.items():
            signal.signal(number, handler)
        server.shutdown()
        serving.join()
        server.turn.end(PATIENCE)
    say("demo: ended")
