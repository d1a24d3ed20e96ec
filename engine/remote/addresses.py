"""Which addresses are public: everything that a URL names is looked at before it is asked.

A list of pairs may come from anybody: its URLs, or where these redirect to, must not reach into the
network that the run stands in (server-side request forgery, CWE-918).
"""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# All that is assigned to be routed (RFC 4291, section 2.4); `is_global` lets much more through,
# ::7f00:1 and fec0::1 among it.
UNICAST = ipaddress.IPv6Network("2000::/3")
TEREDO = ipaddress.IPv6Network("2001::/32")
# RFC 6052; the local one of RFC 8215, 64:ff9b:1::/48, is no public address.
TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
# RFC 9637, which this Python may not know.
DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")
# RFC 6890, of which this Python may know a part; and where a cloud tells its machines about
# themselves.
PROTOCOLS = ipaddress.IPv4Network("192.0.0.0/24")
CLOUD = ipaddress.IPv4Address("168.63.129.16")


def is_public(text: str) -> bool:
    """Whether an address lies in the public internet, and so does the IPv4 address within it.

    Args:
        text: numeric, as the resolver or a socket gives it; a zone (`%eth0`) does not count.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    inner = _embedded(address)
    if inner is not None:
        return is_public(str(inner))
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in UNICAST or address in TEREDO or address in DOCUMENTATION
    ):
        return False
    if isinstance(address, ipaddress.IPv4Address) and (address in PROTOCOLS or address == CLOUD):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_loopback(text: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped, 6to4, or through NAT64."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address in TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
