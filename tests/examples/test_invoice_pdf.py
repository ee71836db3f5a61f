"""Invoices as PDF: right to the cent, one file for each number, the same bytes at every run."""

from pypdf import PdfReader

from tests.examples.stage import Stage

QUEUE = "invoices.db"
INVOICE = """
from datetime import date
from decimal import Decimal
from invoice_pdf import Invoice, Item, order_invoice, write_invoice
items = [Item("Cup", 3, Decimal("0.10")), Item("Plate", 1, Decimal("19.99"))]
invoice = Invoice("2030-0007", date(2030, 1, 31), "Zoë Example", items)
"""


def text_of(stage: Stage, number: str) -> str:
    """Read an invoice."""
    (page,) = PdfReader(stage.folder / "invoices" / f"{number}.pdf").pages
    return page.extract_text()


def test_an_invoice_says_what_was_ordered(stage: Stage) -> None:
    stage.run("invoice_pdf.py")
    stage.run("-c", INVOICE + "order_invoice(invoice)")
    stage.drain("invoice_pdf")
    text = text_of(stage, "2030-0007")
    for said in ("Invoice 2030-0007", "31 January 2030", "Zoë Example", "0.30", "EUR 20.29"):
        assert said in text
    assert "EUR 30.00" in text_of(stage, "2030-0042")
    assert stage.parts() == []


def test_an_invoice_that_is_ordered_twice_is_one_job(stage: Stage) -> None:
    twice = "order_invoice(invoice); print(order_invoice(invoice).duplicate)"
    assert stage.run("-c", INVOICE + twice) == "True\n"
    assert stage.left(QUEUE) == 1


def test_an_invoice_that_cannot_be_set_is_a_dead_letter_at_once(stage: Stage) -> None:
    stage.run("-c", INVOICE + "invoice.customer = '\\u4f60'\norder_invoice(invoice)")
    stage.drain("invoice_pdf")
    (letter,) = stage.dead(QUEUE)
    assert (letter.reason, letter.failures) == ("not_retried", 1)
    assert not (stage.folder / "invoices").exists()


def test_trouble_with_the_disk_is_worth_another_try(stage: Stage) -> None:
    (stage.folder / "invoices").touch()  # where the folder should be
    stage.run("invoice_pdf.py")
    worker = stage.worker("invoice_pdf")
    worker.line(r"failed \(attempt 1\): retry in")
    (stage.folder / "invoices").unlink()
    stage.until_done(QUEUE)
    assert "EUR 30.00" in text_of(stage, "2030-0042")


def test_an_invoice_that_is_delivered_twice_is_the_same_to_the_byte(stage: Stage) -> None:
    stage.run("-c", INVOICE + "write_invoice.options(visibility_timeout=1).enqueue(invoice)")
    stage.vanish("invoice_pdf")
    (path,) = (stage.folder / "invoices").iterdir()
    first, written = path.read_bytes(), path.stat().st_ino
    stage.worker("invoice_pdf")
    stage.until_done(QUEUE)
    assert path.stat().st_ino != written, "it was written twice"
    assert path.read_bytes() == first
    assert list((stage.folder / "invoices").iterdir()) == [path]
