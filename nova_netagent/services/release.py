"""DHCPRELEASE in the name of an instance that is gone (RFC 2131, section 4.4.6).

dnsmasq keeps an address for the MAC that leased it last, to the end of the lease, whatever its
hosts file says by now. dhcp_release(1) of dnsmasq-utils does this; here it is one datagram.
"""

import socket
import struct

_SERVER_PORT = 67
_BOOTREQUEST, _ETHERNET = 1, 1
_MAGIC = b"\x63\x82\x53\x63"
_MESSAGE_TYPE, _SERVER_ID, _END = 53, 54, 255
_DHCPRELEASE = 7


def message(server: str, address: str, mac: str) -> bytes:
    """The BOOTP message by which ``mac`` gives ``address`` back."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    transaction = int.from_bytes(hardware[-4:], "big")
    header = struct.pack("!BBBBIHH", _BOOTREQUEST, _ETHERNET, len(hardware), 0, transaction, 0, 0)
    addresses = socket.inet_aton(address) + bytes(12)
    options = bytes([_MESSAGE_TYPE, 1, _DHCPRELEASE, _SERVER_ID, 4]) + socket.inet_aton(server) + bytes([_END])
    return header + addresses + hardware.ljust(16, b"\0") + bytes(64 + 128) + _MAGIC + options


def send(bridge: str, server: str, address: str, mac: str) -> None:
    """Send it to the server of this host, as if it came by the bridge.

    :raises OSError: there is no such bridge, or no permission (CAP_NET_RAW).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        # The socket of dnsmasq is bound to the bridge and hears nothing else.
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
        sender.sendto(message(server, address, mac), (server, _SERVER_PORT))
