"""Text, or what only has the name of it."""

import gzip
import io
import random
import tarfile

Made = dict[str, tuple[bytes, str] | tuple[bytes, str, float]]


def made(secret: str) -> Made:
    """name -> (bytes, reason code or "=format")."""
    words = f"The {secret} sings. Müller hört es."
    return {**_encodings(words), **_empty(), **_junk(), **_foreign(words), **_html(words), **_tables(words), **_mail(words)}


def _encodings(words: str) -> Made:
    raw = words.encode()
    return {
        "utf-16-le.txt": (("\ufeff" + words).encode("utf-16-le"), "=txt"),
        "utf-16-be.txt": (("\ufeff" + words).encode("utf-16-be"), "=txt"),
        "utf-16-no-mark.txt": (words.encode("utf-16-le"), "=txt"),
        "utf-16-cut.txt": (("\ufeff" + words).encode("utf-16-le")[:-1], "=txt"),
        "utf-32.txt": (words.encode("utf-32"), "=txt"),
        "utf-32-be.md": (("\ufeff" + words).encode("utf-32-be"), "=md"),
        "surrogates.txt": (raw + b"\xed\xa0\x80\xed\xbf\xbf", "=txt"),
        "invalid-utf-8.txt": (raw * 20 + b"\xff\xc3( \xe2\x82", "=txt"),
        "overlong.txt": (raw + b" \xc0\xaf \xf8\x88\x80\x80\x80", "=txt"),
        "override.txt": (f"Read \u202e{words}\u202c \u2066now\u2069.".encode(), "=txt"),
        "combining.txt": (("a" + "\u0301" * 50_000 + words).encode(), "=txt"),
        "nul-between.txt": (raw * 100 + b"\x00\x00\x00", "=txt"),
        "one-line.txt": (b"a" * 3_000_000, "too_large"),
        "many-lines.md": (b"aa\n\n" * 38_000, "too_large"),
        "carriage-returns.txt": (words.replace(" ", "\r").encode(), "=txt"),
        "deep-quotes.md": (b"> " * 3_000 + raw, "damaged"),
        "deep-brackets.md": (b"[" * 50_000 + raw, "damaged"),
        "front-matter-only.md": (b"---\ntitle: x\n---\n", "no_text"),
        "line\nbreak.txt": (raw, "=txt"),
        "n" * 240 + ".txt": (raw, "=txt"),
    }


def _empty() -> Made:
    blank: Made = {f"blank{ending}": (b" \r\n\t\n ", "no_text") for ending in (".txt", ".md", ".html", ".csv")}
    return {
        "empty.txt": (b"", "empty"),
        "empty.docx": (b"", "empty"),
        "mark-only.txt": (b"\xef\xbb\xbf", "no_text"),
        "blank.eml": (b"\r\n\r\n", "damaged"),
        "blank.pdf": (b" \n ", "mislabelled"),
        **blank,
    }


def _junk() -> Made:
    noise = random.Random(7).randbytes(30_000)
    expected = dict.fromkeys((".txt", ".md", ".html", ".csv"), "not_text") | dict.fromkeys((".eml", ".pdf", ".docx", ".pptx", ".xlsx"), "damaged")
    expected |= dict.fromkeys((".xyz", "", ".png"), "unsupported")
    return {
        **{f"noise{ending}": (b"\x03" + noise, code) for ending, code in expected.items()},
        **{f"zeros{ending}": (bytes(20_000), code) for ending, code in expected.items() if ending != ""},
        "controls.txt": (bytes(range(1, 9)) * 500, "not_text"),
    }


def _foreign(words: str) -> Made:
    """What other programs write, under names that Quarry reads."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    heads = {
        "png.txt": b"\x89PNG\r\n\x1a\n",
        "jpeg.md": b"\xff\xd8\xff\xe0\x00\x10JFIF",
        "gif.html": b"GIF89a\x01\x00",
        "tiff.txt": b"II*\x00",
        "7z.csv": b"7z\xbc\xaf\x27\x1c\x00\x04",
        "rar.pdf": b"Rar!\x1a\x07\x00",
        "exe.docx": b"MZ\x90\x00\x03\x00",
        "elf.txt": b"\x7fELF\x02\x01\x01\x00",
        "film.txt": b"\x00\x00\x00\x20ftypmp42",
        "rtf.txt": rb"{\rtf1\ansi ",
        "postscript.pdf": b"%!PS-Adobe-3.0\n",
        "old.doc": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00",
        "old.xlsx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00",
    }
    return {
        **{name: (head + words.encode() * 10, "unsupported") for name, head in heads.items()},
        "gz.csv": (gzip.compress(words.encode()), "unsupported"),
        "tar.txt": (tar.getvalue(), "unsupported"),
        "code.py": (words.encode(), "unsupported"),
        "text.pdf": (words.encode(), "mislabelled"),
        "text.xlsx": (words.encode(), "mislabelled"),
        "page.pdf": (f"<!doctype html><html><body>Log in, {words}</body></html>".encode(), "mislabelled"),
        "mz.txt": (b"MZ 4 is the drawing of the wall.", "=txt"),
    }


def _html(words: str) -> Made:
    return {
        "deep.html": (b"<div>" * 5_000 + words.encode() + b"</div>" * 5_000, "damaged"),
        "quite-deep.html": (b"<div>" * 100 + words.encode(), "=html"),
        "scripts-only.html": (b"<html><body><script>let a = 1</script></body></html>", "no_text"),
        "entities.html": (b'<!doctype html [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><html><body><p>&b; ' + words.encode(), "=html"),
        "unclosed.html": (b"<html><body><p>" + words.encode() + b"<table><tr><td", "=html"),
        "attributes.html": (b"<p " + b"a=1 " * 100_000 + b">" + words.encode(), "=html"),
        "page.txt": (f"<html><body>{words}</body></html>".encode(), "=html"),
    }


def _tables(words: str) -> Made:
    return {
        "open-quote.csv": (b'a,b\n"' + words.encode() * 10_000, "damaged"),
        "huge-field.csv": (b"a,b\n" + b"x" * 200_000 + b",2\n", "damaged"),
        "wide.csv": (b"," * 200_000 + words.encode(), "=csv"),
        "ragged.csv": (f"a;b\n1\n1;2;3;4\n{words}\n".encode(), "=csv"),
        "quotes.csv": (f'a,b\n"say ""{words}""",2\n'.encode(), "=csv"),
        "no-lines.csv": (b"a" * 10_000, "=csv"),
        "too-long.csv": (b"1,2,3\n" * 100_000, "too_large"),
    }


def _mail(words: str) -> Made:
    head = b"From: a@b.example\r\nDate: Tue, 3 Feb 2026 10:00:00 +0000\r\nMessage-ID: <1@b>\r\nMIME-Version: 1.0\r\n"
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(3_000))
    body = words.encode()
    return {
        "recursive.eml": (head + nested + body, "damaged"),
        "same-boundary.eml": (head + b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n\r\n" * 2_000 + body, "=eml"),
        "no-boundary.eml": (head + b"Content-Type: multipart/mixed\r\n\r\n" + body, "=eml"),
        "charset.eml": (head + b"Content-Type: text/plain; charset=klingon\r\n\r\n" + body, "=eml"),
        "base64.eml": (head + b"Content-Transfer-Encoding: base64\r\n\r\n!!!" + body, "=eml"),
        "addresses.eml": (b"To: " + b'"<(' * 500 + b"\r\n" + head + b"\r\n" + body, "=eml"),
        "date.eml": (b"From: x\r\nDate: Tue, 99 Foo 99999999999 99:99\r\nSubject: =?utf-8?b?////?= =?x?q?=\r\n\r\n" + body, "=eml"),
        "binary-part.eml": (head + b"Content-Type: text/plain\r\n\r\n" + bytes(5_000), "not_text"),
        "no-headers.eml": (body, "damaged"),
        "message.txt": (head + b"\r\n" + body, "=eml"),
    }
