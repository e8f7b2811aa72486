"""The methods over an engine without a kernel, called as they come over the wire, without a broker."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from nova_netagent.model import Object
from nova_netagent.rpc.asked import Asked, Method, call
from nova_netagent.rpc.methods import Netagent
from nova_netagent.rpc.nova import Nova
from tests.unit.api.stub_engine import StubEngine


class Remote:
    """Both namespaces of host node-1; ``released`` are the leases given back."""

    def __init__(self) -> None:
        self.engine = StubEngine()
        self.released: list[tuple[str, str, str, str]] = []
        self.release_error: OSError | None = None
        agent = self.engine.agent()
        self._methods: Mapping[str, Method] = {
            **Netagent(agent).methods(),
            **Nova(agent, "node-1", self._release).methods(),
        }

    def __call__(self, method: str, /, **arguments: Any) -> Any:
        """Call a method as a message does: its arguments are JSON."""
        return self._outcome(call(self._methods[method], json.loads(json.dumps(arguments))))

    def held(self, *objects: Object) -> None:
        """Have objects described."""
        from nova_netagent.engine import Change
        from nova_netagent.events import Put

        for each in objects:
            self.engine.submit_and_wait(Change(Put(each)))

    def _outcome(self, asked: Asked) -> Any:
        for each in asked.requests:
            self.engine.serve(each)
        try:
            answer = asked.answer(*[each.answer.result(0) for each in asked.requests])
        except Exception:
            for each in asked.undo:
                self.engine.serve(each)
            raise
        return self._outcome(answer) if isinstance(answer, Asked) else answer

    def _release(self, *lease: str) -> None:
        if self.release_error is not None:
            raise self.release_error
        self.released.append(lease)  # type: ignore[arg-type]


@pytest.fixture
def remote() -> Remote:
    return Remote()
