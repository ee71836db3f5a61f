"""Invoices as PDF, with fpdf2.

`python invoice_pdf.py` enqueues one, `dibs worker invoice_pdf:app` writes it to `invoices/`.

What an invoice says is decided when it is enqueued, and all of it is in the job: whenever and
however often that runs, it writes the same bytes to the same file.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

from fpdf import FPDF
from whole_file import whole_file

from dibs import App, Job

app = App("sqlite:///invoices.db")
FOLDER = Path("invoices")


@dataclass
class Item:
    """One line: Decimal, because money is never a float; it reaches the worker as a Decimal."""

    text: str
    quantity: int
    price: Decimal


@dataclass
class Invoice:
    """All that is printed."""

    number: str
    day: date
    customer: str
    items: list[Item]


# What only computes will fail again as it failed, so it is a dead letter at once, for somebody to
# look at. Only the disk is worth another try (`retry_on`). The path is the job's result, for a day.
@app.task(queue="invoices", retry_on=OSError, timeout=60, keep_result=86_400)
def write_invoice(invoice: Invoice) -> Path:
    """Write `invoices/NUMBER.pdf`; return its path."""
    pdf = FPDF()
    # The day of the invoice and not of this run: a second run must make the same bytes.
    pdf.set_creation_date(datetime.combine(invoice.day, time(), UTC))
    pdf.add_page()
    pdf.set_font("Helvetica", size=12)  # Latin-1 only; `pdf.add_font` for all other names
    for line in (f"Invoice {invoice.number}", f"{invoice.day:%d %B %Y}", invoice.customer):
        pdf.cell(text=line, new_x="LMARGIN", new_y="NEXT")
    with pdf.table() as table:
        table.row(["Item", "Quantity", "Price", "Sum"])
        for item in invoice.items:
            table.row([item.text, f"{item.quantity}", f"{item.price}", f"{amount(item)}"])
        table.row(["Total", "", "", f"EUR {sum(map(amount, invoice.items)):.2f}"])
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{invoice.number}.pdf"
    with whole_file(path) as file:
        file.write(pdf.output())
    return path


def amount(item: Item) -> Decimal:
    """Return what the line costs."""
    return item.quantity * item.price


def order_invoice(invoice: Invoice) -> Job[Path]:
    """Enqueue it; while a job of that number is waiting or at work, there is no second one."""
    return write_invoice.options(unique_key=f"invoice {invoice.number}").enqueue(invoice)


if __name__ == "__main__":
    cups = Item("Coffee cup", 4, Decimal("7.50"))
    print(order_invoice(Invoice("2030-0042", date(2030, 1, 31), "Ann Example", [cups])))
