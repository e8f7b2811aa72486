"""The daemon, whose kernel calls do not come back once there is a file ``hang`` in its state's directory."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from nova_netagent.cmd import agent
from nova_netagent.engine import Engine
from nova_netagent.engine.requests import Request

_SERVE = Engine.serve


def _serve(self: Engine, requests: Iterable[Request]) -> None:
    while (Path(self._settings.state_path) / "hang").exists():
        time.sleep(0.05)
    _SERVE(self, requests)


if __name__ == "__main__":
    agent.STUCK_SECONDS = 1.0
    Engine.serve = _serve  # type: ignore[method-assign]
    sys.exit(agent.main())
