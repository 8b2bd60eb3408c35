"""How a request gets out in the current environment: through which proxy, with which certificates, to which address.

httpx would read the environment itself, once, and raise whatever goes wrong. Here each try reads it again, and an
unusable value is one typed error that names the variable.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import sys
import urllib.request
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import certifi
import httpx

from outbox.postgrest.project import is_loopback
from outbox.postgrest.replies import Silence

_TELLING = 8
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


class Misconfigured(Exception):
    """The environment names something that cannot be used. The message begins with the variable's name."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable that names it. place: host and port, without a password."""

    url: str
    variable: str
    place: str

    def as_httpx(self, trusted: ssl.SSLContext) -> httpx.Proxy:
        """Return httpx's form of it. trusted: for a proxy that speaks TLS itself."""
        return httpx.Proxy(self.url, ssl_context=trusted if self.url.startswith("https:") else None)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The credentials in its URL to remove from replies. A short password may be any word."""
        parts = urlsplit(self.url)
        if parts.password is None:
            return ()
        password = unquote(parts.password)
        pair = f"{unquote(parts.username or '')}:{password}"
        basic = b64encode(pair.encode()).decode()
        return (pair, basic, password) if len(password) >= _TELLING else (pair, basic)

    def __str__(self) -> str:
        return f"the proxy {self.place} ({self.variable})"


# ---------------------------------------------------------------------------------------------- the proxy


def proxy_for(url: str, environ: Mapping[str, str], *, allow_insecure: bool) -> Proxy | None:
    """Return the proxy that requests to `url` go through; None: no proxy.

    Requests to this machine itself never use a proxy: the key would leave the machine. Raises Misconfigured.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    found = _named(parts.scheme, environ)
    if found is None or _is_excepted(host, parts.port or (443 if parts.scheme == "https" else 80), environ):
        return None
    variable, value = found
    proxy = _checked(variable, value)
    if parts.scheme == "http" and not allow_insecure and not is_loopback(urlsplit(proxy.url).hostname or ""):
        raise Misconfigured(f"{variable}: {proxy.place} would see the key in the clear; use https:// for the URL")
    return proxy


def _named(scheme: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the variable in force and its value; lower case wins, as elsewhere."""
    for name in (f"{scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            # A web server passes anybody's header "Proxy: …" to its CGI programs as HTTP_PROXY.
            if variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
                continue
            if value := environ.get(variable, "").strip():
                return variable, value
    if environ is os.environ and sys.platform in ("win32", "darwin"):
        found = urllib.request.getproxies()
        if value := found.get(scheme) or found.get("all"):
            return "the system's settings", value
    return None


def _checked(variable: str, value: str) -> Proxy:
    """Return the proxy. Raises Misconfigured, which never shows the value: it may hold a password."""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        shown = f"{parts.scheme}://[{host}]" if ":" in (host or "") else f"{parts.scheme}://{host}"
        if parts.scheme not in _PROXY_SCHEMES:
            known = "http:// or https://"
            raise Misconfigured(f"{variable}: {parts.scheme}:// is not a supported kind of proxy; use {known}")
        if not host or not url.isascii() or not url.isprintable() or " " in url:
            raise Misconfigured(f"{variable}: is not the URL of a proxy, such as http://proxy.example:3128")
        httpx.Proxy(url)
    except (ValueError, httpx.InvalidURL):  # whose message may quote the value
        raise Misconfigured(f"{variable}: is not the URL of a proxy, such as http://proxy.example:3128") from None
    if parts.scheme.startswith("socks"):
        try:
            import_module("socksio")  # httpx's own way to find out
        except ImportError:
            raise Misconfigured(f"{variable}: a SOCKS proxy needs the package socksio: pip install socksio") from None
    return Proxy(url, variable, shown if port is None else f"{shown}:{port}")


def _is_excepted(host: str, port: int, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names `host`: itself, a parent domain, a network, or `*`. Invalid items match nothing."""
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return any(_means(entry.strip().lower(), host.lower(), port) for entry in listed.replace(" ", ",").split(","))


def _means(entry: str, host: str, port: int) -> bool:
    entry = entry.partition("://")[2] or entry
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and not name.endswith(":"):
        if int(number[:6]) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").removeprefix(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


# ---------------------------------------------------------------------------------------------- the certificates


def tls_context() -> ssl.SSLContext:
    """Return what TLS trusts: the system's certificates and certifi's, or only those that SSL_CERT_FILE or _DIR name.

    Reads some hundred kilobytes: call it in a thread. Raises Misconfigured.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    _try_variable("SSL_CERT_FILE", lambda name: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(name))
    _try_variable("SSL_CERT_DIR", _check_folders)
    _try_variable("SSLKEYLOGFILE", lambda name: Path(name).open("ab").close())
    try:
        context = ssl.create_default_context()
        if not file and not folder:
            context.load_verify_locations(certifi.where())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise Misconfigured(f"the system's certificates: {_reason(error)}") from error
    return context


def _try_variable(variable: str, use: Callable[[str], object]) -> None:
    value = os.environ.get(variable)
    if not value:
        return
    try:
        use(value)
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{variable}: {value}: {_reason(error)}") from error


def _check_folders(listed: str) -> None:
    if not any(Path(each).is_dir() for each in listed.split(os.pathsep)):
        raise NotADirectoryError("no such folder")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "holds no certificate that can be read"
    return str(getattr(error, "strerror", None) or error).lower()


# ---------------------------------------------------------------------------------------------- what went wrong


def words(error: BaseException, proxy: Proxy | None) -> str:
    """Return why a request did not get out, in httpx's or the system's words; and the proxy, if there is one."""
    root = error if isinstance(error, httpx.ProxyError) else _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        said = f"TLS: the certificate is not trusted ({root.verify_message})"
    elif isinstance(root, ssl.SSLError):
        said = f"TLS: {root.reason or root}"
    elif isinstance(root, OSError) and root.strerror:
        said = root.strerror
    elif isinstance(error, httpx.LocalProtocolError):
        said = "the request cannot be sent"  # the error's own text quotes the header
    elif isinstance(error, UnicodeError):
        said = f"the host name of the URL cannot be used: {error}"
    else:
        said = str(error) or type(error).__name__
    if proxy is None:
        return said
    if isinstance(error, httpx.ProxyError):
        return f"{proxy} answers: {said}"
    if isinstance(root, ssl.SSLError):
        return f"{said}, through {proxy}"
    return f"{proxy} cannot be reached: {said}"


def silence(error: BaseException) -> Silence | None:
    """Return what kind of failure `error` is; None: it is not a network error."""
    match error:
        case httpx.InvalidURL() | UnicodeError():  # Python's IDNA codec: two dots in a row, a label of 64 letters
            return Silence.MISCONFIGURED
        case httpx.ProxyError() if str(error).startswith("4"):  # waiting will not change a proxy's own 403 or 407
            return Silence.MISCONFIGURED
        case (
            httpx.PoolTimeout()
            | httpx.ProxyError()
            | httpx.ConnectError()
            | httpx.ConnectTimeout()
            | httpx.UnsupportedProtocol()
            | ssl.SSLError()
        ):
            return Silence.UNREACHABLE
        case httpx.TimeoutException():
            return Silence.TIMEOUT
        case httpx.TransportError() | httpx.DecodingError() | httpx.StreamError() | zlib.error():
            return Silence.CUT
        case _:
            return None


def is_tls(error: BaseException) -> bool:
    """Return whether TLS has failed."""
    return isinstance(_root(error), ssl.SSLError)


def _root(error: BaseException) -> BaseException:
    """Return the system's error behind httpx's; `error` itself if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and (seen.strerror or isinstance(seen, ssl.SSLError)):
            return seen
        # Several addresses were tried: report the first one's error.
        seen = seen.exceptions[0] if isinstance(seen, BaseExceptionGroup) else seen.__cause__ or seen.__context__
    return error
