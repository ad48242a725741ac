"""URLs are told from paths, and what people read holds no secrets."""

from pathlib import Path

import pytest
from support.object_storage import SECRET

from medvlad._util.urls import is_url, scheme_of, url_of, without_secrets


@pytest.mark.parametrize(
    "path", ["s3://b/x", Path("s3://b/x"), "S3://b", "my-fs+v1://x", "memory:/x", "file:///x"]
)
def test_urls(path):
    assert is_url(path)


@pytest.mark.parametrize(
    "path", ["images", "/data/a", "a:b", "C:/data", "C://data", "./s3://x", "x/s3://y", "", 3, b"s3://b"]
)
def test_no_urls(path):
    assert not is_url(path)


def test_two_slashes_come_back():
    assert url_of("S3:/bucket/x") == "s3://bucket/x"
    assert scheme_of("S3://bucket/X") == "s3"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a b.png", "s3://bucket/a b.png"),
        ("s3://bucket/user@site/a.png", "s3://bucket/user@site/a.png"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        (
            "abfss://container@account.dfs.core.windows.net/x",
            "abfss://container@account.dfs.core.windows.net/x",
        ),
        (f"s3://key:{SECRET}@bucket/x", "s3://***@bucket/x"),
        (f"https://user:{SECRET}@host/x", "https://***@host/x"),
        ("https://t0ken@host/x", "https://***@host/x"),
        (f"https://h/x.png?X-Amz-Signature={SECRET}&y=1", "https://h/x.png?..."),
        (f"403, url='https://h/x?sig={SECRET}': no", "403, url='https://h/x?...': no"),
        (f"aws_secret_access_key = {SECRET}", "aws_secret_access_key = ***"),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        (f"AccountKey={SECRET};x", "AccountKey=***;x"),
        (f"?sv=2024&sig={SECRET}&se=1", "?sv=2024&sig=***&se=1"),
        ("is a token missing? yes", "is a token missing? yes"),
    ],
)
def test_secrets_are_hidden(text, shown):
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


def test_values_of_the_environment_are_hidden(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/a/key.json")
    assert without_secrets(f"bad {SECRET} in /home/a/key.json") == "bad *** in /home/a/key.json"
