"""Tell URLs from paths of this machine, and keep secrets out of what people read.

A URL may hold a secret: ``https://user:password@host``, or a signature behind the ``?`` of a signed URL.
Error texts of other libraries repeat such URLs. Every text about a URL that medvlad shows, logs or writes
passes :func:`without_secrets`.
"""

from __future__ import annotations

import hashlib
import os
import re

__all__ = ["HIDDEN", "is_shown_url", "is_url", "scheme_of", "shown_url", "url_of", "without_secrets"]

#: What stands in place of a query.
HIDDEN = "?..."

#: Beginning of a URL. A scheme has at least two letters, because one letter is a drive of Windows.
_URL = re.compile("[A-Za-z][A-Za-z0-9+.-]+://")
#: Schemes that are known with one slash too, which is what `Path` leaves of two.
_ONE_SLASH = re.compile(
    "(s3[an]?|gc?s|az|abfss?|adl|wasbs?|(web)?hdfs|dbfs|https?|s?ftp|ssh|file|webdav|smb|nfs|memory):/",
    re.IGNORECASE,
)
#: user:password@ of a URL. A password may hold a slash, as many keys of AWS do. ``host:8080/a@b`` is none.
_USER = re.compile(r"(://)[^\s/:@?#]*:(?!\d+[/?#])[^\s@]*@")
_LONE_USER = re.compile(r"(https?://)[^\s/@?#]*@", re.IGNORECASE)
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/{1,2}[^\s?'\"<>]*)\?(?!\.\.\.)[^\s'\"<>)\]]*")
_NAMED = re.compile(
    r"""([\w-]*(?:secret|token|signature|password|passwd|credential|accesskey|access_key|account_?key|api_?key
    |authorization|x-goog-|x-amz-|\bsig\b|\bsas\b)[\w-]*["']?\s*[=:]\s*["']?(?:Bearer\s|Basic\s|AWS4\S*\s)?+)
    (?!\.\.\.|\*\*\*)[^\s&,;'"<>]+""",
    re.IGNORECASE | re.VERBOSE,
)
#: Parts of a query that sign a URL or hold a password, and say nothing about which object it is.
_SIGNING = re.compile(
    "x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|expires|signature|policy|key-pair-id"
    "|sv|ss|srt|sp|st|se|spr|sr|sip|sig|sk(oid|tid|[tesv])|.*(passw|pwd).*",
    re.IGNORECASE,
)
_DIGITS = 8
#: Environment variables whose values are secrets.
_SECRET_NAME = re.compile("SECRET|TOKEN|PASSW|ACCESS_KEY|ACCOUNT_KEY|CONNECTION_STRING|SAS|CREDENTIAL", re.I)
_SHORTEST_SECRET = 8


def is_url(path: object) -> bool:
    """Return whether a path is a URL, such as s3://bucket/images. ``s3:/bucket`` counts too."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    return isinstance(text, str) and bool(_URL.match(text) or _ONE_SLASH.match(text))


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case, such as "s3"."""
    return url.partition(":")[0].lower()


def url_of(url: str) -> str:
    """Return a URL with its two slashes, which `Path` may have reduced to one."""
    scheme, _, rest = url.partition(":")
    return f"{scheme.lower()}://{rest.lstrip('/')}"


def shown_url(url: str) -> str:
    """Return a URL without its query and secrets, in a form that names one object.

    A query is shown as ``?...``. Parts of it that do not sign the URL, such as ``id=7``, become eight digits
    of their SHA-256 behind it. So two images that differ only in such parts have two names, and an image has
    the same name under each signature.
    """
    begin, _, query = url.partition("?")
    shown = without_secrets(begin)
    if not query:
        return shown if begin == url else shown + HIDDEN
    kept = "&".join(part for part in query.split("&") if not _SIGNING.fullmatch(part.partition("=")[0]))
    return shown + HIDDEN + (hashlib.sha256(kept.encode()).hexdigest()[:_DIGITS] if kept else "")


def is_shown_url(url: str) -> bool:
    """Return whether the query of a URL was left out to show it, so that it names no object."""
    return re.search(rf"\?\.\.\.([0-9a-f]{{{_DIGITS}}})?$", url) is not None


def without_secrets(text: str) -> str:
    """Return a text in which passwords, queries of URLs and values of secret names are hidden.

    Parameters
    ----------
    text : str
        A URL, or a message that may hold URLs.
    """
    for name, value in os.environ.items():
        is_path = value.startswith(os.path.sep)  # of a file of credentials
        if len(value) >= _SHORTEST_SECRET and value in text and _SECRET_NAME.search(name) and not is_path:
            text = text.replace(value, "***")
    text = _USER.sub(r"\1***@", text)
    text = _LONE_USER.sub(r"\1***@", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    return _NAMED.sub(r"\1***", text)
