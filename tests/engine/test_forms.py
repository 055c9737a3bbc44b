"""Forms that are malformed, or that could be read in more than one way."""

from __future__ import annotations

import httpx
import pytest

from engine.fake_engine import jpeg
from engine.serving_harness import assert_error, served

PICTURE = b'filename="a.jpg"\r\nContent-Type: image/jpeg'


def form(*parts: tuple[str, bytes, bytes]) -> bytes:
    """Parts of a name, what follows the name, and a content."""
    lines = b"".join(
        b'--xyz\r\nContent-Disposition: form-data; name="%s"; %s\r\n\r\n%s\r\n'
        % (name.encode(), rest, content)
        for name, rest, content in parts
    )
    return lines + b"--xyz--\r\n"


def fields(question: bytes = b"sure?", options: bytes = b"{}") -> list[tuple[str, bytes, bytes]]:
    return [
        ("image", PICTURE, jpeg()),
        ("question", b"", question),
        ("width", b"", b"400"),
        ("height", b"", b"300"),
        ("options", b"", options),
    ]


async def sent(
    client: httpx.AsyncClient, body: bytes, path: str = "/v1/answers", charset: str = ""
) -> httpx.Response:
    headers = {"content-type": f"multipart/form-data; boundary=xyz{charset}"}
    return await client.post(path, content=body, headers=headers)


@pytest.mark.parametrize("name", ["image", "question", "width", "height", "options", "note"])
def test_a_repeated_part_is_refused_by_its_name(name: str) -> None:
    parts = [*fields(), ("note", b"", b"of no meaning here")]
    (again,) = (part for part in parts if part[0] == name)

    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await sent(client, form(*parts))).status_code == 200
        for body in (form(*parts, again), form((name, b"", b"another"), *parts)):
            assert_error(await sent(client, body), 422, "invalid_field", f"more than one part '{name}'")

    served(scenario)


def test_a_repeated_local_image_is_refused() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        image = ("image", PICTURE, jpeg())
        response = await sent(client, form(image, image), "/v1/answers/nobody/local")
        assert_error(response, 422, "invalid_field", "more than one part 'image'")

    served(scenario)


@pytest.mark.parametrize(
    "text",
    [b"caf\xe9?", b"\xff\xfeh\0i\0", b"half \xed\xa0\xbd", b"cut \xe2\x82", b"\xc0\xaf", b"\x93quoted\x94"],
)
@pytest.mark.parametrize(
    "charset", ["", "; charset=latin-1", '; Charset="utf-16"; x=y', "; charset=nonsense"]
)
def test_a_text_that_is_no_utf8_is_refused_by_its_name(text: bytes, charset: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await sent(client, form(*fields(text)), charset=charset)
        assert_error(response, 422, "invalid_field", "question: is not UTF-8: send it so")
        response = await sent(client, form(*fields(options=text)), charset=charset)
        assert_error(response, 422, "invalid_field", "options: is not UTF-8: send it so")

    served(scenario)


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=latin-1", "; charset=nonsense"])
def test_utf8_reaches_the_engine_as_it_is(charset: str) -> None:
    question = "Wie heißt das Café, 東京 🚲?"

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await sent(client, form(*fields(question.encode())), charset=charset)
        assert response.json()["first"]["text"] == f"first to {question}"

    served(scenario)


def test_an_image_part_without_a_file_name_is_told_so() -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="image"\r\nContent-Type: image/jpeg\r\n\r\n'
    part += b"abc\r\n--x--"

    async def scenario(client: httpx.AsyncClient) -> None:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        response = await client.post("/v1/answers/x/local", content=part, headers=headers)
        assert_error(response, 422, "invalid_field", "image: this part has no filename")
        assert "class" not in response.text

    served(scenario)


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_malformed_multipart_is_refused(kind: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/answers", content=b"not multipart", headers={"content-type": kind})
        assert_error(response, 400, "malformed_body")

    served(scenario)


@pytest.mark.parametrize("name", ["question", "options"])
def test_a_text_sent_as_a_file_is_refused(name: str) -> None:
    parts = [(one, b'filename="a.txt"' if one == name else rest, text) for one, rest, text in fields()]

    async def scenario(client: httpx.AsyncClient) -> None:
        assert_error(await sent(client, form(*parts)), 422, "invalid_field", f"{name}: is a file")

    served(scenario)


def test_a_repeated_part_is_named_in_its_own_letters() -> None:
    part = ("größe", b"", b"1")

    async def scenario(client: httpx.AsyncClient) -> None:
        assert_error(await sent(client, form(*fields(), part, part)), 422, "invalid_field", "'größe'")

    served(scenario)
