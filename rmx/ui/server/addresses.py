"""Which address a request comes from, where proxies stand in between."""

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Where a proxy in front of a container or on the same machine has its address. One on the internet has to be named.
NEAR = tuple(
    ipaddress.ip_network(n)
    for n in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
)


def visitor_address(peer: str, forwarded: Sequence[str], proxies: Sequence[Network] = ()) -> str:
    """Name the address or network that a request came from.

    A proxy appends the address that it sees to x-forwarded-for, so only the last entry can be believed, and only where
    the peer is a proxy: one in `NEAR`, or a named one. Entries that are named proxies themselves are passed over.

    Args:
        peer: the other end of the connection. forwarded: the header's lines, in order.
        proxies: networks of proxies beside those of `NEAR`.

    Returns:
        An IPv4 address, the /64 network of an IPv6 address (one visitor has all of it), or `peer` as it is.
    """
    near = parse_address(peer)
    if near is not None and not _within(near, (*NEAR, *proxies)):
        return _name(near)
    hops = [hop for line in forwarded for hop in line.split(",")]
    while hops:
        found = parse_address(hops.pop())
        if found is None:
            break
        if not hops or not _within(found, proxies):
            return _name(found)
    return peer if near is None else _name(near)


def parse_address(text: str) -> Address | None:
    """An IP address out of `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1` or `[2001:db8::1]:80`; None where it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _name(address: Address) -> str:
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))
