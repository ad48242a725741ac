"""URLs are told from paths, and what people read holds no secrets."""

import re
from pathlib import Path

import pytest
from support.object_storage import SECRET

from medvlad import InputError
from medvlad._util.object_path import location
from medvlad._util.urls import is_url, scheme_of, shown_url, url_of, without_secrets
from medvlad.datasets.pseudonyms import Pseudonyms


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


SIGNED = "https://host/get.png?id={}&X-Amz-Date={}&X-Amz-Signature=5e1f"


def test_images_that_differ_in_the_query_have_names_of_their_own():
    """Names, and so pseudonyms and rows of results, are those of the object, not of its signature."""
    names = {str(location(SIGNED.format(i, 1), "an image")) for i in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"https://host/get\.png\?\.\.\.[0-9a-f]{8}", name) for name in names)
    first, again = (location(SIGNED.format(7, day), "an image") for day in (1, 2))
    assert str(first) == str(again)
    assert first != again
    pseudonyms = Pseudonyms()
    assert pseudonyms.image(first) == pseudonyms.image(again)
    assert pseudonyms.image(first) != pseudonyms.image(location(SIGNED.format(8, 1), "an image"))


@pytest.mark.parametrize("query", ["X-Amz-Signature=a", "sv=1&se=2&sp=r&sig=x", "Expires=1&Signature=2", ""])
def test_a_query_that_only_signs_names_nothing(query):
    assert shown_url(f"https://host/a.png?{query}") == "https://host/a.png?..."


def test_passwords_are_not_in_the_checksum():
    assert shown_url("https://h/a?id=1&password=x") == shown_url("https://h/a?id=1&password=y")


def test_a_shown_url_cannot_be_read_again():
    shown = str(location(SIGNED.format(1, 1), "an image"))
    with pytest.raises(InputError, match="whose end was left out to hide it"):
        location(shown, "an image")
    assert without_secrets(f"{shown} is damaged") == f"{shown} is damaged"
