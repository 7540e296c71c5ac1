"""Documents for tests: real ones, made by reportlab and python-docx, and hostile ones, made by hand."""

import io
import zipfile
import zlib

import docx
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(*pages: str, password: str | None = None) -> bytes:
    """A PDF with one line of text on each page; an empty one has no text."""
    file = io.BytesIO()
    canvas = Canvas(file, encrypt=None if password is None else StandardEncryption(password, strength=128))
    for text in pages:
        canvas.drawString(72, 720, text)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def raw_pdf(*objects: bytes, root: int = 1) -> bytes:
    """A PDF of these objects, numbered from 1, with a sound table of references."""
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(data)
    n_objects = len(objects) + 1
    data += b"xref\n0 %d\n0000000000 65535 f \n%b" % (n_objects, table)
    return data + b"trailer\n<< /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF" % (n_objects, root, start)


def stream(data: bytes, extra: bytes = b"") -> bytes:
    """A stream object, packed."""
    packed = zlib.compress(data, 9)
    return b"<< /Length %d /Filter /FlateDecode %b >>\nstream\n%b\nendstream" % (len(packed), extra, packed)


def one_page_pdf(content: bytes, pages: bytes = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>") -> bytes:
    """A PDF whose only page has this content stream object, and this page tree."""
    page = (
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
    )
    return raw_pdf(b"<< /Type /Catalog /Pages 2 0 R >>", pages, page, content)


def word_document() -> bytes:
    """A Word document with a heading, a list, a table and accents."""
    made = docx.Document()
    made.add_heading("Prices of tea", 1)
    made.add_paragraph("Sencha costs 12 € a bag; the café's is dearer.")
    made.add_paragraph("first item", style="List Bullet")
    table = made.add_table(rows=2, cols=2)
    for row, cells in zip(table.rows, (("tea", "price"), ("assam", "9")), strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    made.add_paragraph("The end\tof it.")
    file = io.BytesIO()
    made.save(file)
    return file.getvalue()


def raw_docx(body: str, before: str = "") -> bytes:
    """A zip that holds `word/document.xml` with this body, and `before` between the XML declaration and the root."""
    text = f'<?xml version="1.0"?>{before}<w:document xmlns:w="{_W}"><w:body>{body}</w:body></w:document>'
    return zipped({"word/document.xml": text.encode()})


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip of files by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()
