"""What the clients of both kinds share: how a channel is made, and when a call is
tried again."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import random
import socket
import ssl
import time
from typing import Mapping, Optional, Sequence, Union

import grpc

from penstock.errors import CallError

Metadata = Union[Mapping[str, str], Sequence[tuple[str, str]]]

CALL_TIMEOUT = 10.0  # s
RETRY_BUDGET = 30.0  # s
# One GetState or GetGroupState waits so long; its deadline leaves room for the answer.
WAIT = 30.0  # s
WAIT_ROOM = 10.0  # s
# A gateway that stops answers a wait at once; so long until it is asked again.
AGAIN = 0.1  # s
PAGE = 1000  # members of a group

_FIRST_PAUSE = 0.05  # s
_LONGEST_PAUSE = 2.0  # s

# Each call goes to the next gateway that is connected. One that has gone away is
# looked for again all the time, and noticed without a call (the gateway allows a
# ping every 10 s).
_OPTIONS = [
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", -1),
]

# Where systems keep the authorities that they trust, beside where OpenSSL looks.
_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


@dataclasses.dataclass(frozen=True)
class Tls:
    """How gateways are verified, and what they are shown. All are PEM files.

    ca_file: who may have signed their certificates. Default: whom the system trusts.
    cert_file, key_file: the client's own, for gateways that ask for one.
    server_name: the name that is in their certificates. Default: the address's.
    """

    ca_file: Optional[str] = None
    cert_file: Optional[str] = None
    key_file: Optional[str] = None
    server_name: Optional[str] = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError when a file cannot be read."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file) if self.ca_file else _system_roots(),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.cert_file))


def channel_arguments(
    addresses: Union[str, Sequence[str]], tls: Union[None, bool, Tls]
) -> tuple[str, Optional[grpc.ChannelCredentials], list[tuple[str, object]]]:
    """Target, credentials (None: plaintext) and options of a channel."""
    if isinstance(addresses, str):
        addresses = [address.strip() for address in addresses.split(",")]
    options: list[tuple[str, object]] = list(_OPTIONS)
    if tls is True:
        tls = Tls()
    name = tls.server_name if tls else None
    if len(addresses) == 1:
        target = addresses[0]
    else:
        target = _target(addresses)
        # A list has no name of its own by which to verify its members.
        name = name or addresses[0].rpartition(":")[0]
    if tls and name:
        options.append(("grpc.ssl_target_name_override", name))
    return target, tls.credentials() if tls else None, options


def metadata_list(*all_metadata: Optional[Metadata]) -> list[tuple[str, str]]:
    """As gRPC takes them: lower case, a later one in place of an earlier one."""
    merged: dict[str, list[tuple[str, str]]] = {}
    for metadata in all_metadata:
        pairs = metadata.items() if isinstance(metadata, Mapping) else metadata or ()
        keys: dict[str, list[tuple[str, str]]] = {}
        for key, value in pairs:
            keys.setdefault(key.lower(), []).append((key.lower(), value))
        merged.update(keys)
    return [pair for group in merged.values() for pair in group]


class Retry:
    """How long to wait before a call is made again, and when to give up."""

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._end = time.monotonic() + budget
        self._pause = _FIRST_PAUSE

    def succeeded(self) -> None:
        """Of a stream: it has brought something, and may break again."""
        self.__init__(self._budget)  # type: ignore[misc]

    def pause_after(self, error: CallError) -> float:
        """Seconds to wait, with jitter; raises `error` when it is final."""
        if not error.retryable:
            raise error
        pause = self._pause * random.uniform(0.5, 1.0)
        if error.retry_delay is not None:
            pause = max(pause, error.retry_delay)
        if time.monotonic() + pause > self._end:
            raise error
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return pause


class Deadline:
    """When a wait is over; without a timeout it never is."""

    def __init__(self, timeout: Optional[float]) -> None:
        self.timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float:
        """Seconds, 0 or more."""
        if self._end is None:
            return float("inf")
        return max(0.0, self._end - time.monotonic())


def _target(addresses: Sequence[str]) -> str:
    """A target of several addresses, with their names looked up."""
    if not addresses:
        raise ValueError("give at least one address, such as \"localhost:50051\"")
    found: dict[str, list[str]] = {"ipv4": [], "ipv6": []}
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit():
            raise ValueError(f"{address!r} is not HOST:PORT, as each of several must be")
        ip = _look_up(host.strip("[]"))
        if ip.version == 4:
            found["ipv4"].append(f"{ip}:{port}")
        else:
            found["ipv6"].append(f"[{ip}]:{port}")
    if found["ipv4"] and found["ipv6"]:
        raise ValueError("of several addresses either all or none may be IPv6")
    scheme = "ipv4" if found["ipv4"] else "ipv6"
    return f"{scheme}:{','.join(found[scheme])}"


def _look_up(host: str) -> Union[ipaddress.IPv4Address, ipaddress.IPv6Address]:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    # A name of both kinds is taken as IPv4, since a target has one kind.
    answers.sort(key=lambda answer: answer[0] != socket.AF_INET)
    return ipaddress.ip_address(answers[0][4][0])


def _read(path: Optional[str]) -> Optional[bytes]:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def _system_roots() -> Optional[bytes]:
    """None: those that gRPC brings, or the file that it is told by its variable."""
    if "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in os.environ:
        return None
    for path in (ssl.get_default_verify_paths().cafile, *_ROOTS):
        if path and os.path.exists(path):
            return _read(path)
    return None
