"""The API's process: started with a socket that stays, restarted when it ends, gone when the coordinator is."""

import logging
import socket
import subprocess
import sys
from pathlib import Path

import trio

from coordinator.handing import Take, answer
from protocol.errors import ConfigError, Malformed

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
BIND_PATIENCE_S = 5.0  # for the API of a coordinator that was just killed
FIRST_PAUSE_S = 0.5
PAUSE_MAX_S = 20.0
STOP_S = 3.0


async def bind(port: int) -> socket.socket:
    """Listen on a loopback port; 0 takes any free one.

    Raises:
        ConfigError: the port is taken and stays so.
    """
    failure: OSError | None = None
    with trio.move_on_after(BIND_PATIENCE_S if port else 0.5):
        while True:
            listener = socket.socket()
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((HOST, port))
                listener.listen(128)
                return listener
            except OSError as error:
                listener.close()
                failure = error
            await trio.sleep(0.2)
    reason = "" if failure is None else failure.strerror
    raise ConfigError(f"port {port} cannot be used: {reason}", hint="choose another --api-port")


async def serve(
    listener: socket.socket, database: str, checkpoints: Path, log_path: Path, take: Take
) -> None:
    """Keep the API's process alive on a listening socket until cancelled.

    Args:
        database: SQLAlchemy URL.
        checkpoints: their directory.
        take: takes in what people brought to it.
    """
    descriptor = listener.fileno()
    argv = [sys.executable, "-m", "coordinator.api", "--database", database, "--fd", str(descriptor)]
    argv += ["--checkpoints", str(checkpoints)]
    pause = FIRST_PAUSE_S
    while True:
        began = trio.current_time()
        with log_path.open("ab") as errors:
            process = await trio.lowlevel.open_process(
                argv,
                stdin=subprocess.PIPE,  # it ends when this closes, so also when we are killed
                stdout=subprocess.PIPE,
                stderr=errors.fileno(),
                pass_fds=(descriptor,),
                start_new_session=True,
            )
        try:
            await answer(process, take)
        except (Malformed, trio.BrokenResourceError) as error:
            log.error("the API is ended: %s", error)
        finally:
            await _stop(process)
        if trio.current_time() - began > PAUSE_MAX_S:
            pause = FIRST_PAUSE_S
        log.error("the API ended with code %s and is restarted; see %s", process.returncode, log_path)
        await trio.sleep(pause)
        pause = min(2 * pause, PAUSE_MAX_S)


async def _stop(process: trio.Process) -> None:
    with trio.CancelScope(shield=True):
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                await pipe.aclose()
        if process.returncode is None:
            with trio.move_on_after(STOP_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
