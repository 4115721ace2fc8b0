from __future__ import annotations

import pytest

from detectctl.addresses import foreign, is_url, masked, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pw@camera/x.jpg", "http://***@camera/x.jpg"),
        ("https://token@host:8443", "https://***@host:8443"),
        ("rtsp://user:p@w@camera/live", "rtsp://***@camera/live"),
        ("http://user:p/w@camera/x.jpg", "http://***@camera/x.jpg"),
        ("http://user:p#w?@camera/x.jpg", "http://***@camera/x.jpg"),
        ("http://user:@camera/x@2.jpg", "http://***@camera/x@2.jpg"),
        ("http://camera:8080/x@2.jpg", "http://camera:8080/x@2.jpg"),
        ("http://[fe80::1]/x@2.jpg", "http://[fe80::1]/x@2.jpg"),
        ("https://b.s3.amazonaws.com/x.jpg?X-Amz-Signature=ab", "https://b.s3.amazonaws.com/x.jpg?X-Amz-Signature=ab"),
        ("photos/me@home.jpg", "photos/me@home.jpg"),
    ],
)
def test_a_password_is_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize("text", ["http://host/a.jpg", "HTTPS://host/a.jpg"])
def test_a_url_is_not_foreign(text: str) -> None:
    assert is_url(text)
    assert foreign(text) is None


@pytest.mark.parametrize(
    "text", ["a.jpg", "/a/b.jpg", "photos/12:30.jpg", "cam1:0001.jpg", "data:7.jpg", "a//b.jpg", "(a).jpg", "[x]", "-"]
)
def test_what_may_be_a_file_is_not_foreign(text: str) -> None:
    assert foreign(text) is None


@pytest.mark.parametrize(
    ("text", "kind", "remedy"),
    [
        ("s3://bucket/a b.jpg", "an object in S3", "aws s3 presign 's3://bucket/a b.jpg'"),
        ("S3A://bucket/a.jpg", "an object in S3", "aws s3 presign S3A://bucket/a.jpg"),
        ("gs://bucket/a.jpg", "an object in Google Cloud Storage", "gcloud storage sign-url gs://bucket/a.jpg"),
        ("az://box/a.jpg", "an object in Azure Blob Storage", "az storage blob generate-sas --full-uri …"),
        ("hdfs://name/a.jpg", "an address that begins with hdfs://", "download it first"),
        ("ftp://host/a.jpg", "an address that begins with ftp://", "download it first"),
        ("file:///home/me/a%20b.jpg", "a file: URL", "`'/home/me/a b.jpg'`"),
        ("file:/home/me/a.jpg", "a file: URL", "`/home/me/a.jpg`"),
        ("file://localhost/home/me/a.jpg", "a file: URL", "`/home/me/a.jpg`"),
        ("data:image/jpeg;base64,/9j/4AAQ", "a data: URL", "base64 -d"),
        ("rtsp://user:pw@camera/live", "a video stream", "ffmpeg -i 'rtsp://***@camera/live'"),
        ("<http://host/a.jpg>", "a URL with other characters around it", "without them"),
        ("'https://host/a.jpg?a=(1)'", "a URL with other characters around it", "without them"),
        ("http:/host/a.jpg", "a URL whose beginning is misspelt", "begin it with http://"),
        ("C:\\Users\\me\\a.jpg", "a path of Windows", "wslpath 'C:\\Users\\me\\a.jpg'"),
        ("c:/Users/me/a.jpg", "a path of Windows", "wslpath c:/Users/me/a.jpg"),
        ("\\\\server\\share\\a.jpg", "a path of Windows", "wslpath"),
    ],
)
def test_another_address_is_told_by_its_kind_with_the_way_to_the_image(text: str, kind: str, remedy: str) -> None:
    found = foreign(text)
    assert found is not None
    assert found.kind.startswith(kind)
    assert remedy in (found.mended or found.signed or found.local)


def test_a_message_has_no_more_of_a_long_text_than_a_line() -> None:
    assert shortened("x" * 120) == "x" * 120
    assert shortened("x" * 121) == "x" * 119 + "…"
