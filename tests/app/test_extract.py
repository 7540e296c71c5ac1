"""Text from files that people send, and from files that lie."""

import asyncio

import pytest

from samovar.app import document_reader
from samovar.app.codes import FileRefused
from samovar.app.document_reader import DocumentReader
from samovar.app.extract import MAX_FILE_BYTES, extract
from tests.app.documents import one_page_pdf, pdf, raw_docx, stream, word_document, zipped


def read(name, data, **options):
    async def go():
        return await extract(DocumentReader(), name, data, **options)

    return asyncio.run(go())


def refusal(name, data, **options):
    with pytest.raises(FileRefused) as caught:
        read(name, data, **options)
    assert str(caught.value).startswith(f"{name} ")
    assert caught.value.failure.code.startswith("file_")
    return str(caught.value)


@pytest.mark.parametrize(
    "text", ["plain", "def f():\n    return '\u00fc'\n", "a,b\n1,2\n", "日本語 \U0001f600", "a\x1b[31mred\x1b[0m"]
)
def test_utf8_text_comes_through_as_it_is_without_a_note(text):
    found = read("notes.txt", text.encode())
    assert (found.text, found.media_type, found.note) == (text, "text/plain", None)


@pytest.mark.parametrize(
    "text", ["BMW makes cars", "GIF8 is a mark", "PK is short", "MARK = b'%PDF-1.7'", "Rar! a cry", "RIFF"]
)
def test_texts_that_begin_like_something_else_are_texts(text):
    assert read("a.txt", text.encode()).text == text


def test_a_files_type_follows_its_name():
    assert read("a.CSV", b"a,b").media_type == "text/csv"
    assert read("a.py", b"a = 1").media_type == "text/plain"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_marked_encodings_are_read(encoding):
    mark = {"utf-16-be": b"\xfe\xff", "utf-32-be": b"\0\0\xfe\xff"}.get(encoding, b"")
    found = read("a.txt", mark + "héllo 日本\r\nb".encode(encoding))
    assert found.text == "héllo 日本\nb"
    assert (found.note is None) == (encoding == "utf-8-sig")


def test_a_western_file_of_old_is_read_and_the_guess_is_told():
    found = read("a.txt", "Überraschung, 5 € – café".encode("cp1252"))
    assert found.text == "Überraschung, 5 € – café"
    assert "read as Windows-1252" in found.note
    assert "read as Latin-1" in read("a.txt", b"caf\xe9 \x81 x").note


def test_broken_utf8_keeps_what_is_sound_and_counts_what_is_not():
    found = read("a.txt", "日本語テキスト".encode()[:-1] + b" end")
    assert found.text == "日本語テキス\ufffd end"
    assert "1 places are no sound UTF-8" in found.note


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.bin", bytes(range(256)) * 9, "a binary file"),
        ("a.txt", b"text\0text", "a binary file"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(99), "an image"),
        ("a.bmp", b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0", "an image"),
        ("a.webp", b"RIFF\x10\0\0\0WEBPVP8 ", "an image"),
        ("a.xlsx", zipped({"xl/workbook.xml": b"<a/>"}), "a workbook, which is not read here; save it as CSV"),
        ("a.pptx", zipped({"ppt/presentation.xml": b"<a/>"}), "slides, which is not read here; save them as PDF"),
        ("a.docx", zipped({"hello.txt": b"hello"}), "no Word document, or a damaged one"),
        ("a.docx", word_document()[:-500], "no Word document, or a damaged one"),
        ("a.zip", zipped({"hello.txt": b"hello"}), "an archive, which is not read here; unpack it"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "of old, or a locked one, which is not read here; save it as DOCX"),
        ("a.gz", b"\x1f\x8b\x08\0abc", "an archive"),
        ("a.pdf", b"hello, this is text", "no PDF: it holds plain text"),
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n ", "empty"),
        ("a.txt", b"\xff\xfe" + bytes(40), "begins like UTF-32-LE text and is none"),
        ("a.txt", b"x" * (MAX_FILE_BYTES + 1), "expected up to 25 MB"),
    ],
)
def test_what_is_no_text_is_refused_by_name(name, data, what):
    assert what in refusal(name, data)


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.bin", bytes(range(256)), "file_kind"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "file_kind"),
        ("a.txt", b"", "file_empty"),
        ("a.txt", b"x" * (MAX_FILE_BYTES + 1), "file_too_large"),
        ("a.pdf", pdf(""), "file_unreadable"),
        ("a.docx", word_document()[:-500], "file_unreadable"),
    ],
)
def test_refusals_have_codes_to_translate_by(name, data, code):
    with pytest.raises(FileRefused) as caught:
        read(name, data)
    assert caught.value.failure.code == code


def test_a_long_text_is_cut_at_a_line_and_that_is_said():
    found = read("a.txt", b"123456789\n" * 100, max_chars=205)
    assert found.text == "123456789\n" * 20
    assert found.note == "only the first 200 of 1,000 characters are kept"
    assert len(read("a.txt", b"x" * 1000, max_chars=205).text) == 205


def test_a_pdf_is_read_page_by_page_and_pages_without_text_are_named():
    found = read("a.pdf", b"junk before\n" + pdf("First page here", "", "Third page"))
    assert found.text == "First page here\n\nThird page"
    assert found.media_type == "application/pdf"
    assert found.note == "pages without text, which may be pictures: 2"


def test_a_pdf_of_many_pages_is_read_as_far_as_wanted():
    found = read("a.pdf", pdf(*(f"page {n} of the book" for n in range(60))), max_chars=100)
    assert len(found.text) <= 100
    assert "only the first 100 characters are kept" in found.note
    assert "of 60 pages were read" in found.note


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (pdf("secret", password="tea"), "locked with a password"),
        (pdf("", ""), "they may be pictures (a scan)"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 40, "it is damaged or locked"),
        (pdf("Hello")[:300], "it is damaged or locked"),
        (one_page_pdf(stream(b"BT"), b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"), "it is damaged or locked"),
    ],
    ids=["locked", "scan", "garbage", "cut", "loop"],
)
def test_pdfs_without_readable_text_are_refused_with_the_reason(data, what):
    assert what in refusal("a.pdf", data)


@pytest.mark.slow
def test_a_pdf_that_unpacks_to_more_than_is_read_is_refused():
    bomb = one_page_pdf(stream(b" " * (120 << 20)))
    assert "pages can be read; it may be damaged" in refusal("a.pdf", bomb)


def test_a_pdf_that_lies_about_its_pages_gives_the_one_that_it_has():
    tree = b"<< /Type /Pages /Kids [3 0 R] /Count 1000000000 >>"
    assert read("a.pdf", one_page_pdf(stream(b"BT /F1 12 Tf (hello there) Tj ET"), tree)).text == "hello there"


def test_a_document_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(document_reader, "MAX_WAIT_S", 0.01)
    assert "within 30 s of processor time and 1024 MB; it may be damaged" in refusal("a.pdf", pdf("Hello"))


def test_the_reader_is_bound_in_memory_and_dies_alone(monkeypatch, tmp_path):
    (tmp_path / "pypdf.py").write_text("hold = bytearray(2 << 30)")  # stands in for a file that makes the reader take 2 GB
    monkeypatch.syspath_prepend(tmp_path)
    assert "it may be damaged" in refusal("a.pdf", pdf("Hello"))
    (tmp_path / "pypdf.py").write_text("import resource, signal, os; os.kill(os.getpid(), signal.SIGXCPU)")
    assert "it may be damaged" in refusal("a.pdf", pdf("Hello"))


def test_the_reader_holds_no_secret_of_the_servers_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMOVAR_API_KEY", "a secret of twenty letters")
    monkeypatch.syspath_prepend(tmp_path)
    script = "import os; from samovar.app.reading import Reading\nclass PdfReader:\n  is_encrypted = False\n"
    script += "  def __init__(self, _): raise ValueError(sorted(os.environ))"
    (tmp_path / "pypdf.py").write_text(script)
    assert "SAMOVAR_API_KEY" not in refusal("a.pdf", pdf("Hello"))
    assert "PYTHONPATH" in refusal("a.pdf", pdf("Hello"))


def test_a_word_document_keeps_headings_lists_and_tables():
    found = read("a.docx", word_document())
    assert found.text == (
        "# Prices of tea\nSencha costs 12 € a bag; the café's is dearer.\n- first item\ntea | price\nassam | 9\nThe end\tof it."
    )
    assert found.note is None


def test_what_is_left_out_of_a_word_document_is_said():
    picture = '<a:blip xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"/>'
    body = f"<w:p><w:r><w:t>Look:</w:t>{picture}</w:r><w:r><w:delText>gone</w:delText></w:r></w:p>"
    found = read("a.docx", raw_docx(body))
    assert (found.text, found.note) == ("Look:", "pictures are left out (1)")


def test_footnotes_follow_the_text_and_comments_are_left_out():
    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    note = "<w:footnote><w:p><w:r><w:t>Note one</w:t></w:r></w:p></w:footnote>"
    parts = {
        "word/document.xml": f"<w:document {w}><w:p><w:r><w:t>Body</w:t></w:r></w:p></w:document>",
        "word/footnotes.xml": f"<w:footnotes {w}>{note}</w:footnotes>",
        "word/comments.xml": f"<w:comments {w}/>",
    }
    found = read("a.docx", zipped({name: text.encode() for name, text in parts.items()}))
    assert (found.text, found.note) == ("Body\n\nNote one", "comments are left out")


def test_a_long_word_document_is_cut_and_that_is_said():
    found = read("a.docx", raw_docx("<w:p><w:r><w:t>123456789</w:t></w:r></w:p>" * 500), max_chars=100)
    assert found.text == "123456789\n" * 10
    assert found.note == "only the first 100 characters are kept"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (raw_docx("<w:p><w:r><w:t>&a;</w:t></w:r></w:p>", '<!DOCTYPE x [<!ENTITY a "aaa">]>'), "it holds a DOCTYPE"),
        (raw_docx("<w:p>" * 1000), "its XML is damaged"),
        (raw_docx("<w:p/>"), "it holds no text"),
        (raw_docx("<w:p><w:r><w:t>&#xD800;</w:t></w:r></w:p>"), "its XML is damaged"),
        (word_document()[:-8000] + word_document()[-7000:], "its zip is damaged"),
    ],
    ids=["entities", "unclosed", "no text", "half a character", "cut"],
)
def test_word_documents_that_lie_are_refused_with_the_reason(data, what):
    assert what in refusal("a.docx", data)


@pytest.mark.slow
def test_a_word_document_that_unpacks_to_more_than_is_read_is_refused():
    assert "unpacks to more than 64 MB" in refusal("a.docx", raw_docx("<w:p>" + " " * (70 << 20) + "</w:p>"))
