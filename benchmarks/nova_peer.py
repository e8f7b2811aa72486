"""nova's own IptablesFirewallDriver, run in nova's environment: it knows nothing of this project.

Real are nova.virt.firewall and nova.network.linux_net, unmodified, and iptables. Not real: the
database (its lists come from memory), and rootwrap (commands are run at once, as root).
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from unittest import mock

warnings.simplefilter("ignore")
SIZE, SHARED, RULES, RUNS = map(int, sys.argv[1:5])
FOLDER = tempfile.mkdtemp()
for family in ("iptables", "ip6tables"):
    for what in ("", "-save", "-restore"):
        os.symlink(f"/usr/sbin/{family}-legacy{what}", f"{FOLDER}/{family}{what}")
os.environ["PATH"] = f"{FOLDER}:{os.environ['PATH']}"

# The database layer does not import on this Python, and nothing here asks it.
for name in (
    "nova.db.api",
    "nova.db.sqlalchemy",
    "nova.db.sqlalchemy.api",
    "nova.db.sqlalchemy.models",
    "nova.db.sqlalchemy.api_models",
    "nova.db.sqlalchemy.types",
    "oslo_db.concurrency",
    "oslo_db.sqlalchemy.enginefacade",
):
    sys.modules[name] = mock.MagicMock(name=name)

netaddr = importlib.import_module("netaddr")
processutils = importlib.import_module("oslo_concurrency.processutils")
lockutils = importlib.import_module("oslo_concurrency.lockutils")
CONF = importlib.import_module("nova.conf").CONF
objects = importlib.import_module("nova.objects")
utils = importlib.import_module("nova.utils")
objects.register_all()
CONF([], project="nova", default_config_files=[])
lockutils.set_defaults(FOLDER)
for option, value in {"use_neutron": False, "my_ip": "192.0.2.10", "use_ipv6": True, "state_path": FOLDER}.items():
    CONF.set_override(option, value)


def execute(*words, **options):
    """Run a command at once."""
    options.pop("run_as_root", None)
    return processutils.execute(*words, **options)


utils.execute = execute
linux_net = importlib.import_module("nova.network.linux_net")
model = importlib.import_module("nova.network.model")
firewall = importlib.import_module("nova.virt.firewall")
linux_net.binary_name = "nova-compute"
linux_net.iptables_manager = linux_net.IptablesManager()


def instance(number):
    """Instance N with one vif, and what the network knows of it."""
    made = objects.Instance(id=number, uuid=f"{number:08x}-0000-4000-8000-{number:012x}", hostname=f"vm-{number}")
    subnet = model.Subnet(
        cidr="10.1.0.0/16",
        dns=[],
        dhcp_server="10.1.0.1",
        gateway=model.IP(address="10.1.0.1", type="gateway"),
        ips=[model.FixedIP(address=f"10.1.{number // 250}.{number % 250 + 2}")],
    )
    network = model.Network(id="1", bridge="br100", label="private", subnets=[subnet])
    mac = f"fa:16:3e:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    vif = model.VIF(id=made.uuid, address=mac, network=network, type=model.VIF_TYPE_BRIDGE)
    return made, model.NetworkInfo([vif])


def rule(index):
    """A rule as this project's benchmark has it."""
    return objects.SecurityGroupRule(
        id=index,
        protocol="tcp" if index % 3 else "udp",
        from_port=1000 + index,
        to_port=1000 + index,
        cidr=netaddr.IPNetwork(f"203.0.{index % 250}.0/24"),
        grantee_group=None,
    )


ALL = [rule(index) for index in range(RULES)]
objects.SecurityGroupRuleList.get_by_instance = staticmethod(lambda context, of: list(ALL))


def spent(function):
    """Milliseconds of a call."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def add(driver, number):
    """What nova-compute does for an instance."""
    made, network_info = instance(number)
    driver.setup_basic_filtering(made, network_info)
    driver.prepare_instance_filter(made, network_info)
    driver.apply_instance_filter(made, network_info)


def everything(driver):
    """What nova-compute does when it starts."""
    driver.filter_defer_apply_on()
    for number in range(1, SIZE + 1):
        add(driver, number)
    driver.filter_defer_apply_off()


def resident():
    """The resident memory of this process, in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


driver = firewall.IptablesFirewallDriver()
cold = spent(lambda: everything(driver))
lines = subprocess.run(["iptables-save", "-t", "filter"], capture_output=True, text=True, check=True).stdout
one_more = [spent(lambda n=n: add(driver, SIZE + n)) for n in range(1, RUNS + 1)]
found = {"cold": cold, "one_more": statistics.median(one_more), "rules": lines.count("\n-A"), "memory": resident()}
print(json.dumps(found))
