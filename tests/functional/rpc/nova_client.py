"""nova's own network RPC client, run in nova's environment: a call on each line in, how it ended on one out."""

import json
import sys
import warnings
from unittest import mock

warnings.simplefilter("ignore")
# A client needs no database, and this release's does not import on a Python of today (``async`` is a keyword).
for database in ("nova.db.api", "oslo_db.concurrency", "oslo_db.sqlalchemy.enginefacade"):
    sys.modules[database] = mock.MagicMock(name=database)
for tables in (
    "nova.db.sqlalchemy",
    *(f"nova.db.sqlalchemy.{each}" for each in ("api", "models", "api_models", "types")),
):
    sys.modules[tables] = mock.MagicMock(name=tables)

import nova.conf  # noqa: E402
import oslo_messaging  # noqa: E402
from nova import context, rpc  # noqa: E402
from nova.network import rpcapi  # noqa: E402
from nova.objects import instance as instance_objects  # noqa: E402


def main(url: str) -> None:
    """Answer what is asked on standard input."""
    conf = nova.conf.CONF
    conf([], project="nova", default_config_files=[])
    rpc.set_defaults(control_exchange="nova")
    rpc.get_transport_url = lambda url_str=None: oslo_messaging.TransportURL.parse(conf, url_str or url)
    rpc.init(conf)
    conf.set_override("amqp_durable_queues", True, "oslo_messaging_rabbit")
    api = rpcapi.NetworkAPI()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        arguments = request["arguments"]
        if isinstance(arguments.get("instance"), dict):
            arguments["instance"] = instance_objects.Instance(**arguments["instance"])
        try:
            answer = getattr(api, request["method"])(context.get_admin_context(), **arguments)
            ended = {"answer": answer}
        except Exception as error:
            ended = {
                "raised": [each.__module__ + "." + each.__name__ for each in type(error).__mro__],
                "text": str(error),
            }
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
