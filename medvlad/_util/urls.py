"""Tell URLs from paths of this machine, and keep secrets out of what people read.

A URL may hold a secret: ``https://user:password@host``, or a signature behind the ``?`` of a signed URL.
Error texts of other libraries repeat such URLs. Every text about a URL that medvlad shows, logs or writes
passes :func:`without_secrets`.
"""

from __future__ import annotations

import os
import re

__all__ = ["HIDDEN", "is_url", "scheme_of", "url_of", "without_secrets"]

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
